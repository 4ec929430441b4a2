/** Which flows of connection tracking are cleared, of those that are found. */
import { expect, test } from 'vitest';
import { StaleFlows } from '../../src/agent/stale-flows.ts';
import type { FlowTarget } from '../../src/dataplane/dataplane.ts';
import type { StaleFlow } from '../../src/model/conntrack.ts';
import type { Address } from '../../src/model/records.ts';
import type { Flow, FlowSide } from '../../src/node/conntrack.ts';

const quiet = () => {};
const log = { error: quiet, warn: quiet, info: quiet, debug: quiet, trace: quiet };
const FRONTEND = { address: '10.200.1.10' as Address, port: 9000 };
const BACKEND = { address: '10.10.2.3' as Address, port: 80 };

function flow(from: { address: Address; port: number }): Flow {
  const client = { address: '10.10.1.1' as Address, port: 40_000 };
  const counts = { packets: 1n, bytes: 1n };
  const side = (a: typeof client, b: typeof client): FlowSide => ({
    ...{ source: a.address, sourcePort: a.port, destination: b.address, destinationPort: b.port },
    ...counts,
  });
  return {
    ...{ family: 4, protocol: 'UDP', state: 'ASSURED', timeoutSeconds: 4, mark: 0, zone: 0, id: 1 },
    ...{ original: side(client, FRONTEND), reply: side(from, client) },
    ...{ destinationTranslated: from === BACKEND, sourceTranslated: false },
  };
}

/** Leftovers among an untranslated flow and one to a backend, all of which lead astray by the model. */
async function leftovers(untranslated: readonly FlowTarget[]): Promise<(Address | null)[]> {
  let asked = 0;
  const parts = {
    log,
    clearFlows: async (_family: number, flows: readonly StaleFlow[]) => flows.length,
    flows: async function* () {
      yield [flow(FRONTEND), flow(BACKEND)];
      yield [flow(FRONTEND)];
    },
  };
  const flows = new StaleFlows(
    parts,
    { leadsAstray: () => true },
    {
      untranslated: () => {
        asked++;
        return untranslated;
      },
      undisturbed: (work) => work(),
    },
    quiet,
  );
  const found = await flows.leftovers();
  // The programs' whole table is read for it.
  expect(asked).toBe(1);
  return found.map(({ backend }) => backend);
}

test('what nothing translates goes, and what leads to a backend that is gone', async () => {
  expect(await leftovers([])).toEqual([null, BACKEND.address, null]);
});

test('not what is translated after netfilter, by programs that drain', async () => {
  expect(await leftovers([{ ...FRONTEND, protocol: 'UDP' }])).toEqual([BACKEND.address]);
});

test.each([
  { ...FRONTEND, protocol: 'TCP' as const },
  { ...FRONTEND, port: 9001, protocol: 'UDP' as const },
  { ...BACKEND, protocol: 'UDP' as const },
])('another frontend counts for nothing: %j', async (other) => {
  expect(await leftovers([other])).toEqual([null, BACKEND.address, null]);
});

test('not what programs translate that drain, whoever asks for it: at a start, every frontend is new', async () => {
  const cleared: StaleFlow[] = [];
  const parts = {
    log,
    clearFlows: async (_family: number, flows: readonly StaleFlow[]) => cleared.push(...flows),
    flows: async function* () {},
  };
  const drains = {
    untranslated: () => [{ ...FRONTEND, protocol: 'UDP' as const }],
    undisturbed: <T>(work: () => Promise<T>) => work(),
  };
  const flows = new StaleFlows(parts, { leadsAstray: () => true }, drains, quiet);
  const toFrontend: StaleFlow = { ...FRONTEND, protocol: 'UDP', backend: null, backendPort: 0 };
  const toBackend = { ...toFrontend, backend: BACKEND.address, backendPort: BACKEND.port };
  const toAnother = { ...toFrontend, port: 9001 };
  expect(await flows.clear([toFrontend, toBackend, toAnother])).toEqual([]);
  expect(cleared).toEqual([toBackend, toAnother]);
});
