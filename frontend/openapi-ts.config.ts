//! `npm run gen`: the client in src/api/generated/ comes from the reviewed OpenAPI document and from nothing else.
import { defineConfig } from '@hey-api/openapi-ts'

export default defineConfig({
  input: process.env['OPENAPI_INPUT'] ?? '../openapi/openapi.json',
  output: { path: 'src/api/generated', importFileExtension: null },
  plugins: ['@hey-api/client-fetch', '@hey-api/typescript', '@hey-api/sdk', { name: '@tanstack/react-query', queryKeys: { tags: false } }],
})
