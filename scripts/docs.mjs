// Writes the pages of docs/ that are made from tables in src/, and the plain manifests, from the chart. `node scripts/docs.mjs --check` writes nothing and
// fails when a page is not what its table says.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import process from 'node:process';
import { build } from 'esbuild';
import { renderChart } from './lib/chart.mjs';
import { inRoot } from './lib/files.mjs';

/** Node 20 cannot read TypeScript, so the module is bundled first, in memory. */
async function importTypeScript(file) {
  const result = await build({
    entryPoints: [inRoot(file)],
    bundle: true,
    write: false,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    logLevel: 'warning',
  });
  return import(
    `data:text/javascript;base64,${Buffer.from(result.outputFiles[0].contents).toString('base64')}`
  );
}

function cell(text) {
  return text.replaceAll('|', '\\|').replaceAll('<', '&lt;');
}

async function errorsPage() {
  const { ERRORS } = await importTypeScript('src/model/errors.ts');
  const rows = Object.entries(ERRORS).map(
    ([code, { means, remedy }]) => `| \`${code}\` | ${cell(means)} | ${cell(remedy)} |`,
  );
  return `# Errors

Every error that Triplane raises on purpose carries one of these codes: in the log as \`code\`, and before the
message where a command ends with it. A code keeps its meaning; scripts and alerts may rely on it.

| code | what it means | what to do |
|---|---|---|
${rows.join('\n')}

_Made from \`src/model/errors.ts\` by \`node scripts/docs.mjs\`._
`;
}

async function configurationPage() {
  return (await importTypeScript('src/config/reference.ts')).configurationReference();
}

/** What the chart gives with nothing but an API server set: for those who do without Helm. */
function plainManifests(values, except) {
  const all = { apiServer: 'https://API-SERVER:6443', ...values };
  const files = [...renderChart(inRoot('deploy/helm/triplane'), all)];
  const parts = files
    .filter(([name]) => name !== 'NOTES.txt' && !except.includes(name))
    .map(([, text]) => text);
  return `# Made from deploy/helm/triplane by scripts/docs.mjs. Do not edit.\n${parts.join('---\n')}`;
}

/** Page -> its text. */
const PAGES = {
  'docs/errors.md': errorsPage,
  'docs/configuration.md': configurationPage,
  'deploy/kubernetes/triplane.yaml': () => plainManifests({}, []),
  'deploy/kubernetes/monitoring.yaml': () =>
    plainManifests({ metrics: { serviceMonitor: true, rules: true } }, [
      'configmap.yaml',
      'daemonset.yaml',
      'rbac.yaml',
    ]),
};

const onlyCheck = process.argv.includes('--check');
for (const [page, make] of Object.entries(PAGES)) {
  const file = inRoot(page);
  const text = await make();
  const isThere = existsSync(file) && readFileSync(file, 'utf8') === text;
  if (isThere) continue;
  if (onlyCheck) {
    process.stderr.write(`docs: ${page} is not what its source says: run \`node scripts/docs.mjs\`\n`);
    process.exitCode = 1;
  } else {
    writeFileSync(file, text);
    process.stdout.write(`docs: wrote ${page}\n`);
  }
}
