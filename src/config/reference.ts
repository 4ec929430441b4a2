/** docs/configuration.md, made from the option table. */
import { OPTIONS } from './options.ts';
import { placeholder } from './placeholder.ts';
import type { OptionSpec } from './spec.ts';

const INTRODUCTION = `# Configuration

<!-- Made by scripts/docs.mjs from src/config/options.ts. Do not edit. -->

\`triplane run\` takes kube-proxy's flags under their own names and kube-proxy's configuration file
(\`apiVersion: kubeproxy.config.k8s.io/v1alpha1\`, \`kind: KubeProxyConfiguration\`, YAML or JSON) with \`--config\`.
No environment variable is read for it ([TRIPLANE_WITHOUT](probe.md#leaving-features-out) is for tests).

**Precedence.** A flag that is given explicitly wins over the file, the file over the default. kube-proxy
ignores most flags when it has \`--config\`; here they count, and a warning names those that kube-proxy would
have ignored and that change something.

**Strict, then lenient.** Unknown and duplicate fields do not stop the agent: a warning names them, and the last
of duplicate fields counts. A field with a value that cannot be used does stop it. A zero (\`""\`, \`0\`, \`0s\`,
\`false\`, \`null\`, an empty list) means "not given" as in kube-proxy, except where the table says *zero counts*.

**Own settings** stand in the same file under \`triplane:\`. kube-proxy reads such a file too; it warns of the
unknown field and goes on, so that one file can serve both during a migration. kube-proxy itself does not know
the proxy modes \`auto\` and \`ebpf\`.

**Modes.** \`nftables\` is \`nft\`; \`iptables\` becomes \`auto\`, with a warning; no mode at all means \`auto\`.
Periods and \`masqueradeAll\`, which kube-proxy's file keeps once a mode, are taken from the section of the mode.

**Following the file.** A changed file is read again. Settings marked *live* are taken over at once; for the
others the log says that a restart is needed. A file that cannot be used changes nothing. The mode moves
([switching.md](switching.md)) only when the file names one, and another than was named before: a file without \`mode\`
means \`auto\` when the agent starts, and leaves a running one in the mode that it has.

**Lists** are comma-separated as flags (a flag given twice adds to its list). **Durations** are Go's:
\`300ms\`, \`30s\`, \`1h2m3.5s\`. **Booleans** may stand alone (\`--masquerade-all\`) or carry a value
(\`--masquerade-all=false\`).
`;

/** The whole page. */
export function configurationReference(): string {
  const rows = OPTIONS as readonly OptionSpec[];
  const groups = [...new Set(rows.map((row) => row.group))];
  const parts = groups.map((group) => {
    const body = rows.filter((row) => row.group === group).map(line);
    return `## ${group}\n\n| Flag | File | Value | Default | Change | Meaning |\n|---|---|---|---|---|---|\n${body.join('\n')}\n`;
  });
  return `${INTRODUCTION}\n${parts.join('\n')}`;
}

function line(row: OptionSpec): string {
  const flag = row.flag === '' ? '' : code(row.flag === 'v' ? '-v, --v' : `--${row.flag}`);
  const field = row.field === '' ? '' : code(row.field);
  const meaning = [row.help];
  if (row.status === 'ignored') meaning.push('Accepted without meaning here.');
  if (row.status === 'alias') meaning.push(`Another name of ${nameOf(row.fold!)}.`);
  if (row.status === 'works' && row.modes !== undefined)
    meaning.push(`Only in mode ${row.modes.join(', ')}.`);
  const kept = row.zero === 'kept' && row.field !== '' && !row.field.startsWith('triplane.');
  if (kept) meaning.push('Zero counts.');
  const change = row.status === 'works' || row.status === 'alias' ? row.change : '';
  return `| ${flag} | ${field} | ${values(row)} | ${row.default === '' ? '' : code(row.default)} | ${change} | ${cell(meaning.join(' '))} |`;
}

function values(row: OptionSpec): string {
  if (row.kind === 'opaque') return 'any';
  if (row.kind === 'choice') return (row.choices ?? []).map(code).join(', ');
  const limits =
    row.min === undefined || row.kind === 'duration'
      ? ''
      : ` ${row.min}${row.max === undefined ? ' or more' : `-${row.max}`}`;
  return `${cell(placeholder(row))}${limits}`;
}

function nameOf(key: string): string {
  const row = (OPTIONS as readonly OptionSpec[]).find((one) => one.key === key)!;
  return code(`--${row.flag}`);
}

function code(text: string): string {
  return `\`${cell(text)}\``;
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|');
}
