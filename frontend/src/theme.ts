//! Colours, type and defaults of the components. Contrast is at least 4.5:1 in both schemes; styles.css holds the tokens
//! that differ between light and dark.
import { createTheme, type CSSVariablesResolver, type MantineColorsTuple } from '@mantine/core'

const tide: MantineColorsTuple = [
  '#ecf8f7', '#d9eeec', '#b0dcd9', '#84cac5', '#5fb9b4', '#3fa39f', '#2b8a88', '#1f7276', '#195d62', '#10464b',
]

const slate: MantineColorsTuple = [
  '#d3dae0', '#b7c1ca', '#9aa7b2', '#72808d', '#46535f', '#36414c', '#29333d', '#1d252d', '#161d24', '#10161b',
]

export const theme = createTheme({
  primaryColor: 'tide',
  primaryShade: 7,
  colors: { tide, dark: slate },
  defaultRadius: 'md',
  fontFamily: "'Inter', ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif",
  fontFamilyMonospace: "ui-monospace, SFMono-Regular, Menlo, Consolas, 'Noto Sans Mono', monospace",
  headings: { fontWeight: '650', sizes: { h1: { fontSize: '1.625rem' }, h2: { fontSize: '1.125rem' }, h3: { fontSize: '1rem' } } },
  cursorType: 'pointer',
  respectReducedMotion: true,
})

/** Mantine's own greys for secondary text miss 4.5:1 on our backgrounds. */
export const variables: CSSVariablesResolver = () => ({
  variables: {},
  light: {
    '--mantine-color-dimmed': '#55626e',
    '--mantine-color-placeholder': '#66727d',
    '--mantine-color-error': '#b42318',
    '--mantine-color-text': '#17212a',
    '--mantine-color-body': '#ffffff',
  },
  dark: {
    '--mantine-color-dimmed': '#a3b0bb',
    '--mantine-color-placeholder': '#8d9aa6',
    '--mantine-color-error': '#ff9d93',
    '--mantine-color-text': '#e4eaef',
  },
})
