//! Entry: mounts the app.
import '@mantine/core/styles.css'
import './styles.css'
import { MantineProvider, Title } from '@mantine/core'
import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'
import { theme, variables } from './theme'

const root = document.getElementById('root')
if (!root) throw new Error('index.html holds no #root')
createRoot(root).render(
  <StrictMode>
    <MantineProvider theme={theme} cssVariablesResolver={variables} defaultColorScheme="auto">
      <Title p="xl">Driftless</Title>
    </MantineProvider>
  </StrictMode>,
)
