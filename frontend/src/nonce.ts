//! The value under which the content security policy lets this page's components write styles; the server puts a new one
//! into every index.html. Scripts are never inline.
import { setNonce } from 'get-nonce'

export const nonce: string = document.querySelector<HTMLMetaElement>('meta[name="csp-nonce"]')?.content ?? ''

// Dialogs keep the page behind them from scrolling through a library that asks here.
setNonce(nonce)
