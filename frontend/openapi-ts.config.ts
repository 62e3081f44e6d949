//! `npm run gen`: the client in src/api/generated/ comes from the reviewed OpenAPI document and from nothing else.
import { defineConfig } from '@hey-api/openapi-ts'

export default defineConfig({
  input: process.env['OPENAPI_INPUT'] ?? '../openapi/openapi.json',
  output: { path: 'src/api/generated', importFileExtension: null },
  // A preview changes nothing: although it is a POST, pages ask for it like for any other query.
  parser: { hooks: { operations: { isQuery: (operation) => (operation.path === '/api/sync/schedule/preview' ? true : undefined) } } },
  plugins: ['@hey-api/client-fetch', '@hey-api/typescript', '@hey-api/sdk', '@tanstack/react-query'],
})
