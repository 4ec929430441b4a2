/**
 * The metrics of traffic by service and endpoint, in Prometheus' text format: written here and not by prom-client, which
 * would hold every series a second time and make one string of all.
 * https://prometheus.io/docs/instrumenting/exposition_formats/
 */
import type { TrafficReport, TrafficSum } from '../agent/status.ts';

/** Samples in one piece: some 50 kB. */
const SAMPLES = 512;

interface Family {
  readonly suffix: string;
  readonly help: string;
  /** Label and count of each sample of a series. */
  readonly samples: readonly (readonly [
    direction: string,
    count: keyof TrafficSum & (`packets${string}` | `bytes${string}` | 'connections'),
  ])[];
}

const CONNECTIONS: Family = {
  suffix: 'connections_total',
  help: 'Connections and datagram flows that got an endpoint',
  samples: [['', 'connections']],
};
const TRAFFIC: readonly Family[] = [
  {
    suffix: 'packets_total',
    help: 'Packets as the kernel sees them, toward the service (in) and back (out)',
    samples: [
      ['in', 'packetsIn'],
      ['out', 'packetsOut'],
    ],
  },
  {
    suffix: 'bytes_total',
    help: 'Bytes from the IP header on, toward the service (in) and back (out)',
    samples: [
      ['in', 'bytesIn'],
      ['out', 'bytesOut'],
    ],
  },
];

/** Nothing at all while nothing is counted: a metric that is not there is not zero. */
export function* trafficText({ settings, services, endpoints }: TrafficReport): Generator<string> {
  if (settings.level === 'off') return;
  const families = settings.level === 'traffic' ? [CONNECTIONS, ...TRAFFIC] : [CONNECTIONS];
  for (const family of families) yield* familyText('triplane_service', family, services);
  if (settings.by === 'service') return;
  for (const family of families) yield* familyText('triplane_endpoint', family, endpoints);
}

function* familyText(prefix: string, family: Family, sums: readonly TrafficSum[]): Generator<string> {
  const name = `${prefix}_${family.suffix}`;
  let piece = `# HELP ${name} ${family.help}\n# TYPE ${name} counter\n`;
  let samples = 0;
  for (const sum of sums) {
    const labels = labelsOf(sum);
    for (const [direction, count] of family.samples) {
      const more = direction === '' ? '' : `,direction="${direction}"`;
      piece += `${name}{${labels}${more}} ${sum[count]}\n`;
      samples++;
    }
    if (samples < SAMPLES) continue;
    yield piece;
    piece = '';
    samples = 0;
  }
  yield piece;
}

/** "namespace/name:port" and "namespace/name": no part of a name has a slash or a colon that kube-apiserver took. */
function labelsOf({ port, endpoint }: TrafficSum): string {
  const slash = port.indexOf('/');
  const colon = port.indexOf(':', slash);
  const end = colon < 0 ? port.length : colon;
  const labels = [
    `namespace="${escapeLabel(port.slice(0, Math.max(slash, 0)))}"`,
    `service="${escapeLabel(port.slice(slash + 1, end))}"`,
    `port="${escapeLabel(port.slice(end + 1))}"`,
  ];
  if (endpoint !== '') labels.push(`endpoint="${escapeLabel(endpoint)}"`);
  return labels.join(',');
}

/** What the format asks for in a label's value; everything else may stand in it as it is. */
export function escapeLabel(text: string): string {
  return text.replace(/[\\"\n]/g, (char) => (char === '\n' ? '\\n' : `\\${char}`));
}
