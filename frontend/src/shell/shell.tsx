//! The frame around every page: navigation, who is signed in, and the line that says when the server is out of reach.
import { ActionIcon, Burger, Drawer, Loader, useComputedColorScheme, useMantineColorScheme } from '@mantine/core'
import { useDisclosure } from '@mantine/hooks'
import { IconActivity, IconDeviceLaptop, IconHistory, IconLogout, IconMoon, IconPlugConnectedX, IconRefresh, IconSettings, IconStack2, IconSun, type Icon } from '@tabler/icons-react'
import { Suspense, useCallback, useEffect, useRef, useSyncExternalStore } from 'react'
import { useQueryClient } from '@tanstack/react-query'
import { useTranslation } from 'react-i18next'
import { NavLink, Outlet, useLocation } from 'react-router'
import { isPassing, toFailure } from '../api/failure'
import { signOut } from '../api/session'
import { useSession } from '../api/use-session'
import { SignIn } from '../pages/sign-in'
import { Notice } from '../parts/notice'
import { Brand } from './brand'
import { Guard } from './lost'
import classes from './shell.module.css'

type Section = 'sync' | 'runs' | 'devices' | 'activity' | 'jobs' | 'settings'

const SECTIONS: ReadonlyArray<readonly [Section, Icon]> = [
  ['sync', IconRefresh], ['runs', IconHistory], ['devices', IconDeviceLaptop], ['activity', IconActivity], ['jobs', IconStack2], ['settings', IconSettings],
]
const OF_ADMINS: ReadonlySet<Section> = new Set(['jobs'])

function Sections({ admin, onGo }: { admin: boolean; onGo?: () => void }) {
  const { t } = useTranslation()
  return (
    <ul className={classes.sections}>
      {SECTIONS.filter(([section]) => admin || !OF_ADMINS.has(section)).map(([section, SectionIcon]) => (
        <li key={section}>
          <NavLink to={`/${section}`} className={classes.section} {...(onGo ? { onClick: onGo } : {})}>
            <SectionIcon size={20} stroke={1.7} aria-hidden />
            <span>
              <span className={classes.label}>{t(`nav.${section}`)}</span>
              <span className={classes.hint}>{t(`nav.${section}Hint`)}</span>
            </span>
          </NavLink>
        </li>
      ))}
    </ul>
  )
}

function Foot({ name }: { name: string }) {
  const { t } = useTranslation()
  const { setColorScheme } = useMantineColorScheme()
  const dark = useComputedColorScheme('light') === 'dark'
  const theme = `${t('settings.theme')}: ${dark ? t('settings.light') : t('settings.dark')}`
  return (
    <div className={classes.foot}>
      <span className={classes.initial} aria-hidden>{name.slice(0, 1).toUpperCase()}</span>
      <span className={classes.name} title={t('app.signedInAs', { name })}>{name}</span>
      <ActionIcon variant="subtle" color="gray" size="lg" aria-label={theme} title={theme} onClick={() => setColorScheme(dark ? 'light' : 'dark')}>
        {dark ? <IconSun size={18} aria-hidden /> : <IconMoon size={18} aria-hidden />}
      </ActionIcon>
      <ActionIcon variant="subtle" color="gray" size="lg" aria-label={t('app.signOut')} title={t('app.signOut')} onClick={() => void signOut()}>
        <IconLogout size={18} aria-hidden />
      </ActionIcon>
    </div>
  )
}

/** Moves the reader to the new page's top, as a page load would. */
function useTopOfPage(pathname: string) {
  const main = useRef<HTMLElement>(null)
  const before = useRef(pathname)
  useEffect(() => {
    if (before.current === pathname) return
    before.current = pathname
    window.scrollTo(0, 0)
    main.current?.focus({ preventScroll: true })
  }, [pathname])
  return main
}

/** Whether what is on the page could not be renewed, because the server gives no answer. */
function useOutOfReach(): boolean {
  const cache = useQueryClient().getQueryCache()
  const subscribe = useCallback((listener: () => void) => cache.subscribe(listener), [cache])
  return useSyncExternalStore(subscribe, () => cache.findAll({ type: 'active' }).some(({ state }) => (
    state.data !== undefined && state.fetchFailureReason !== null && isPassing(toFailure(state.fetchFailureReason))
  )))
}

export function Shell() {
  const { t } = useTranslation()
  const session = useSession()
  const [open, menu] = useDisclosure(false)
  const { pathname } = useLocation()
  const main = useTopOfPage(pathname)
  const lost = useOutOfReach()
  if (session.state === 'starting') return <main className={classes.starting}><Loader role="status" aria-label={t('app.starting')} />{session.waiting ? <p>{t('problems.unreachable')}</p> : null}</main>
  if (session.state === 'out') return <SignIn />
  return (
    <div className={classes.frame}>
      <a href="#content" className="skip">{t('app.skip')}</a>
      <nav aria-label={t('app.menu')} className={classes.bar}>
        <Burger opened={open} onClick={menu.open} size="sm" aria-label={t('app.menu')} aria-expanded={open} />
        <Brand />
      </nav>
      <nav aria-label={t('app.navigation')} className={classes.side}>
        <Brand />
        <Sections admin={session.user.is_admin} />
        <Foot name={session.user.username} />
      </nav>
      <Drawer opened={open} onClose={menu.close} size={280} title={<Brand />} closeButtonProps={{ 'aria-label': t('app.menuClose') }} classNames={{ body: classes.drawer ?? '' }}>
        <nav aria-label={t('app.navigation')}><Sections admin={session.user.is_admin} onGo={menu.close} /></nav>
        <Foot name={session.user.username} />
      </Drawer>
      <main id="content" className={classes.main} ref={main} tabIndex={-1}>
        {lost ? <div className={classes.lost}><Notice tone="warn" icon={IconPlugConnectedX} alert>{t('common.lost')}</Notice></div> : null}
        <Guard key={pathname}><Suspense><Outlet /></Suspense></Guard>
      </main>
    </div>
  )
}
