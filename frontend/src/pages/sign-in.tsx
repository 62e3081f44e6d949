//! Name and password. A refusal says which of the two sorts it is: wrong, or too many tries and how long to wait.
import { Button, PasswordInput, Stack, Text, TextInput, Title } from '@mantine/core'
import { useMutation } from '@tanstack/react-query'
import { useEffect, useState, type FormEvent } from 'react'
import { useTranslation } from 'react-i18next'
import { signIn } from '../api/session'
import { Failed } from '../parts/states'
import { Brand } from '../shell/brand'
import classes from './sign-in.module.css'

export function SignIn() {
  const { t } = useTranslation()
  const [name, setName] = useState('')
  const [password, setPassword] = useState('')
  const entering = useMutation({ mutationFn: () => signIn(name.trim(), password) })
  useEffect(() => { document.title = `${t('signIn.title')} · Driftless` }, [t])
  const submit = (event: FormEvent) => {
    event.preventDefault()
    entering.mutate()
  }
  return (
    <main className={classes.ground}>
      <div className={classes.card}>
        <Brand large />
        <Title order={1} size="h2" mt="lg">{t('signIn.title')}</Title>
        <Text c="dimmed" size="sm" mb="lg">{t('signIn.lead')}</Text>
        <form onSubmit={submit}>
          <Stack>
            {entering.error ? <Failed error={entering.error} /> : null}
            <TextInput label={t('signIn.name')} value={name} onChange={(event) => setName(event.currentTarget.value)} autoComplete="username" autoCapitalize="none" spellCheck={false} required withAsterisk={false} autoFocus size="md" />
            <PasswordInput visibilityToggleButtonProps={{ 'aria-label': t('common.reveal') }} label={t('signIn.password')} value={password} onChange={(event) => setPassword(event.currentTarget.value)} autoComplete="current-password" required withAsterisk={false} size="md" />
            <Button type="submit" size="md" fullWidth loading={entering.isPending}>{t('signIn.submit')}</Button>
          </Stack>
        </form>
        <Text c="dimmed" size="xs" mt="lg">{t('signIn.first')}</Text>
      </div>
    </main>
  )
}
