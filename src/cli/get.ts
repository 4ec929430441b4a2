/** `triplane get`: read from the kernel, not from what the agent believes; only the node is asked of the agent. */
import { Command } from 'commander';
import type { EndpointView, Mode, ServiceView } from '../dataplane/dataplane.ts';
import { compareAddresses } from '../model/address.ts';
import { TriplaneError } from '../model/errors.ts';
import { formatSocket, type SocketAddress } from '../model/socket.ts';
import type { AdminNode } from '../observe/admin.ts';
import { askAgent, socketOption } from './admin-client.ts';
import type { Io } from './io.ts';
import { type ConnectionView, type KernelReader, MACHINERY, type Machinery } from './machinery.ts';
import { type Column, type OutputFormat, outputOption, render, renderTable, renderValue } from './output.ts';

interface GetOptions {
  readonly output: OutputFormat;
}

export function getCommand(io: Io, machinery: Machinery = MACHINERY): Command {
  const get = new Command('get').description(
    'what the kernel holds now, with the same columns in every mode',
  );
  const what = (name: string, description: string) =>
    get.command(name).description(description).addOption(outputOption());
  const filter = 'only of this service: namespace/name, or namespace/ for all of a namespace';
  what('services', 'frontends, and what answers on them')
    .argument('[service]', filter)
    .action(async (service: string | undefined, { output }: GetOptions) => {
      const { services } = await readAll(machinery);
      io.out(await render(servicesOf(services, service), SERVICE_COLUMNS, output));
    });
  what('endpoints', 'backends by pool')
    .argument('[service]', filter)
    .action(async (service: string | undefined, { output }: GetOptions) => {
      const { endpoints } = await readAll(machinery);
      io.out(await render(endpointsOf(endpoints, service), ENDPOINT_COLUMNS, output));
    });
  what('connections', 'connections through services').action(async ({ output }: GetOptions) => {
    io.out(await render(await readConnections(machinery), CONNECTION_COLUMNS, output));
  });
  what('node', 'this node as the running agent sees it')
    .addOption(socketOption())
    .action(async ({ output, adminSocket }: GetOptions & { adminSocket: string }) => {
      const node = await askAgent<AdminNode>(adminSocket, 'GET', '/v1/node');
      io.out(
        output === 'json' || output === 'yaml' ? await renderValue(node, output) : nodeTable(node, output),
      );
    });
  return get;
}

export const SERVICE_COLUMNS: readonly Column<ServiceView>[] = [
  { title: 'SERVICE', text: (row) => row.service },
  { title: 'KIND', text: (row) => row.kind },
  { title: 'FRONTEND', text: (row) => formatSocket(row) },
  { title: 'PROTOCOL', text: (row) => row.protocol },
  { title: 'INSIDE', text: (row) => row.inside },
  { title: 'OUTSIDE', text: (row) => (row.outside === '' ? row.inside : row.outside) },
  { title: 'AFFINITY', text: (row) => (row.affinitySeconds === 0 ? '' : `${row.affinitySeconds}s`) },
  { title: 'MASQUERADE', text: (row) => row.masquerade, wide: true },
  {
    title: 'RANGES',
    text: (row) => (row.sourceRanges === 0 ? '' : String(row.sourceRanges)),
    wide: true,
    align: 'right',
  },
];

export const ENDPOINT_COLUMNS: readonly Column<EndpointView>[] = [
  { title: 'SERVICE', text: (row) => row.service },
  { title: 'ENDPOINT', text: (row) => formatSocket(row) },
  { title: 'PROTOCOL', text: (row) => row.protocol },
  { title: 'POOL', text: (row) => row.pool },
];

export const CONNECTION_COLUMNS: readonly Column<ConnectionView>[] = [
  { title: 'PROTOCOL', text: (row) => row.protocol },
  { title: 'CLIENT', text: (row) => formatSocket(row.client) },
  { title: 'FRONTEND', text: (row) => formatSocket(row.frontend) },
  { title: 'BACKEND', text: (row) => formatSocket(row.backend) },
  { title: 'STATE', text: (row) => row.state },
  {
    title: 'MASQUERADED-AS',
    text: (row) => (row.masqueradedAs === null ? '' : formatSocket(row.masqueradedAs)),
    wide: true,
  },
  { title: 'EXPIRES', text: (row) => `${row.expiresSeconds}s`, align: 'right' },
];

/** Sorted by service, then address and port; filtered by "namespace/name" (with or without port name) or "namespace/". */
export function servicesOf(rows: readonly ServiceView[], service?: string): readonly ServiceView[] {
  return rows
    .filter((row) => belongs(row.service, service))
    .sort(
      (a, b) =>
        compareText(a.service, b.service) || compareSockets(a, b) || compareText(a.protocol, b.protocol),
    );
}

export function endpointsOf(rows: readonly EndpointView[], service?: string): readonly EndpointView[] {
  return rows
    .filter((row) => belongs(row.service, service))
    .sort(
      (a, b) =>
        compareText(a.service, b.service) ||
        compareText(a.pool, b.pool) ||
        compareSockets(a, b) ||
        compareText(a.protocol, b.protocol),
    );
}

/** What every mode holds. While a switch is under way there may be two. Throws TP_NO_FEATURE when nothing can be read. */
export async function readAll(
  machinery: Machinery,
): Promise<{ services: ServiceView[]; endpoints: EndpointView[] }> {
  const all = { services: [] as ServiceView[], endpoints: [] as EndpointView[] };
  for (const reader of await readersOf(machinery)) {
    const held = await reader.read();
    if (held === null) continue;
    all.services.push(...held.services);
    all.endpoints.push(...held.endpoints);
  }
  return all;
}

async function readConnections(machinery: Machinery): Promise<readonly ConnectionView[]> {
  const rows: ConnectionView[] = [];
  for (const reader of await readersOf(machinery)) rows.push(...(await reader.connections()));
  return rows.sort((a, b) => compareSockets(a.frontend, b.frontend) || compareSockets(a.client, b.client));
}

async function readersOf(machinery: Machinery): Promise<KernelReader[]> {
  const loads = (['nft', 'ipvs', 'ebpf'] satisfies Mode[]).map((mode) => machinery.readers[mode]);
  const readers = await Promise.all(loads.flatMap((load) => (load === null ? [] : [load()])));
  if (readers.length === 0)
    throw new TriplaneError('TP_NO_FEATURE', 'this build has no dataplane to read from');
  return readers;
}

function belongs(name: string, service: string | undefined): boolean {
  if (service === undefined || name === service) return true;
  return service.endsWith('/') ? name.startsWith(service) : name.startsWith(`${service}:`);
}

function compareSockets(a: SocketAddress, b: SocketAddress): number {
  return compareAddresses(a.address, b.address) || a.port - b.port;
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

const PROBLEMS_SHOWN_MAX = 20;

/** Objects that are refused. */
function problemRows(problems: AdminNode['problems']): [string, string][] {
  const rows = problems
    .slice(0, PROBLEMS_SHOWN_MAX)
    .map(({ code, object, reason }): [string, string] => [`Problem ${code}`, `${object}: ${reason}`]);
  const more = problems.length - PROBLEMS_SHOWN_MAX;
  return more > 0 ? [...rows, ['Problems', `and ${more} more: -o json shows all`]] : rows;
}

export function nodeTable(node: AdminNode, format: 'table' | 'wide'): string {
  const { mode } = node;
  const rows: readonly (readonly [string, string])[] = [
    ['Name', node.name],
    ['Mode', mode.mode === '' ? 'none yet' : mode.mode],
    ['Asked for', mode.requested],
    ['Because', mode.reason],
    ...(mode.switching === '' ? [] : [['Switching to', mode.switching] as const]),
    ...mode.draining.map(
      (one) => [`Still on ${one.mode}`, `${one.connections} connections, until they end`] as const,
    ),
    ...(mode.failure === '' ? [] : [['Failed', mode.failure] as const]),
    ...mode.degrees.map(({ feature, device, got, reason }): [string, string] => [
      device === '' ? feature : `${feature} ${device}`,
      reason === '' ? got : `${got}: ${reason}`,
    ]),
    ['Synced', node.synced ? 'yes' : 'no'],
    ...(node.holdup === '' ? [] : [['Not done', node.holdup] as const]),
    ['Node object', node.known ? (node.deleting ? 'being deleted' : 'known') : 'not known'],
    ['Zone', node.zone],
    ['Addresses', node.addresses.join(', ')],
    ['Taints', node.taints.join(', ')],
    ...problemRows(node.problems),
  ];
  return renderTable(
    rows,
    [
      { title: 'WHAT', text: ([what]) => what },
      { title: 'VALUE', text: ([, value]) => value },
    ],
    format,
  );
}
