//! What shows when an address names nothing, or when a page broke.
import { Button } from '@mantine/core'
import { IconBug, IconMapQuestion } from '@tabler/icons-react'
import { Component, type ReactNode } from 'react'
import { useTranslation } from 'react-i18next'
import { Link } from 'react-router'
import { Empty } from '../parts/states'

export function NotFound() {
  const { t } = useTranslation()
  return <Empty heading icon={IconMapQuestion} title={t('notFound.title')} hint={t('notFound.text')} action={<Button component={Link} to="/sync">{t('notFound.home')}</Button>} />
}

function Broken() {
  const { t } = useTranslation()
  return <Empty heading icon={IconBug} title={t('crash.title')} hint={t('crash.text')} action={<Button onClick={() => location.reload()}>{t('crash.reload')}</Button>} />
}

/** Keeps a page's defect, or a page that could not be fetched, from taking the frame along. Give it a key that changes with the page. */
export class Guard extends Component<{ children: ReactNode }, { broken: boolean }> {
  override state = { broken: false }

  static getDerivedStateFromError() {
    return { broken: true }
  }

  override render() {
    return this.state.broken ? <Broken /> : this.props.children
  }
}
