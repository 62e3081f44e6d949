//! Lists come in pages.

/** Entries of the largest page that the server gives. */
export const MOST = 1_000
