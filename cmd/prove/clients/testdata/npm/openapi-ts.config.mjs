// How hey-api makes its client: with the file extensions that node asks for.
export default {
  input: '../../../../../api/openapi.yaml',
  output: { path: 'hey', importFileExtension: '.js' },
  plugins: ['@hey-api/client-fetch'],
  logs: { file: false },
};
