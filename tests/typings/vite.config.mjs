// For Node instead of a browser, with the library in the file.
export default { build: { ssr: 'application.ts', outDir: 'built', target: 'es2022' }, ssr: { noExternal: true }, logLevel: 'error' };
