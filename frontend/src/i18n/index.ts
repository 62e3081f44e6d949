//! Texts by key, English and German. English is the type: a key that German lacks does not compile. The language is the
//! person's choice, else the browser's, else English.
import i18next from 'i18next'
import { initReactI18next } from 'react-i18next'
import { en } from './en'

export const LANGUAGES = { en: 'English', de: 'Deutsch' } as const
export type Language = keyof typeof LANGUAGES

const CHOICE = 'driftless.language'

function isLanguage(text: string | null): text is Language {
  return text !== null && text in LANGUAGES
}

function preferred(): Language {
  const chosen = localStorage.getItem(CHOICE)
  if (isLanguage(chosen)) return chosen
  return navigator.languages.map((tag) => tag.slice(0, 2)).find(isLanguage) ?? 'en'
}

async function load(language: Language): Promise<void> {
  if (language === 'de' && !i18next.hasResourceBundle('de', 'translation')) {
    i18next.addResourceBundle('de', 'translation', (await import('./de')).de)
  }
}

/** Must have ended before the first render. */
export async function startTexts(): Promise<void> {
  await i18next.use(initReactI18next).init({
    resources: { en: { translation: en } },
    lng: 'en',
    fallbackLng: 'en',
    interpolation: { escapeValue: false },
    returnNull: false,
  })
  i18next.on('languageChanged', (language) => { document.documentElement.lang = language })
  await setLanguage(preferred(), false)
}

export async function setLanguage(language: Language, remember = true): Promise<void> {
  await load(language)
  if (remember) localStorage.setItem(CHOICE, language)
  await i18next.changeLanguage(language)
}

declare module 'i18next' {
  interface CustomTypeOptions {
    defaultNS: 'translation'
    resources: { translation: typeof en }
  }
}
