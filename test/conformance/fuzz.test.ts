/**
 * Random clusters, changes and flows through real kernels. A short run in `npm test`; `npm run fuzz` sets the rest:
 * TRIPLANE_FUZZ is JSON of { minutes, seed, modes, path, socketLb }.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { missingForFlows } from '../support/flow-engine.ts';
import { hasIpvs } from '../support/ipvs.ts';
import { privilege } from '../support/privilege.ts';
import { skipUnless } from '../support/skip.ts';
import { SLOWNESS } from '../support/slowness.ts';
import { Fuzzer } from './fuzz/fuzzer.ts';
import { IpvsSubject } from './fuzz/ipvs-subject.ts';
import { EbpfSubject, type FuzzMode, NftSubject, type Subject } from './fuzz/subjects.ts';

interface Wish {
  readonly minutes?: number;
  readonly seed?: number;
  readonly modes?: readonly FuzzMode[];
  readonly path?: string;
  readonly socketLb?: 'all' | 'host' | 'off';
}

const wish = JSON.parse(process.env.TRIPLANE_FUZZ ?? '{}') as Wish;
/** In an emulated kernel, which is booted for ipvs, the other modes would take long and have been played outside of it. */
const OTHERS: readonly FuzzMode[] = SLOWNESS > 1 ? [] : ['nft', 'ebpf'];
const HERE: readonly FuzzMode[] = hasIpvs() ? ['ipvs', ...OTHERS] : ['nft', 'ebpf'];
const { minutes = 0, modes = HERE, socketLb = 'all', path } = wish;
/** Of the short run: the same at every commit, so that a failure is of the commit. */
const SEED = 20_260_101;
const SHORT = { runs: SLOWNESS > 1 ? 2 : 4, flows: 24 };
const LONG = { runs: Math.ceil(25 / SLOWNESS), flows: 60 };

/** One case of a long run, played again. */
const PATH_MS = 1_800_000;

const root = skipUnless(
  privilege() === 'root' && missingForFlows === null,
  missingForFlows ?? "needs the machine's root",
);

root.describe('random clusters, changes and flows', () => {
  const subjects: Subject[] = [];
  let fuzzer: Fuzzer;
  beforeAll(async () => {
    // The ebpf mode last: this process then enters its node.
    if (modes.includes('nft')) subjects.push(await NftSubject.create());
    if (modes.includes('ipvs')) subjects.push(await IpvsSubject.create());
    if (modes.includes('ebpf')) subjects.push(await EbpfSubject.create(socketLb));
    fuzzer = new Fuzzer(subjects);
  });
  afterAll(async () => {
    for (const subject of subjects.reverse()) await subject.remove();
  });

  if (minutes === 0) {
    const options = path ? { timeout: PATH_MS * SLOWNESS } : {};
    test('every dataplane does what decide() says, and ends as after a fresh start', options, async () => {
      // A path names a case among those of the long run, which has other flows.
      const size = path ? { ...LONG, path } : SHORT;
      const report = await fuzzer.run({ ...size, seed: wish.seed ?? SEED });
      expect(report.finding).toBe('');
      expect(report.flows).toBeGreaterThan(path ? 0 : 20 * SHORT.runs);
    });
    return;
  }

  test('for a while', { timeout: (minutes + 5 * SLOWNESS) * 60_000 }, async () => {
    const end = performance.now() + minutes * 60_000;
    const findings: string[] = [];
    let seed = wish.seed ?? Date.now() % 1_000_000_000;
    while (performance.now() < end && findings.length < 5) {
      const { finding } = await fuzzer.run({ ...LONG, seed });
      if (finding !== '') findings.push(finding);
      const { cases, steps, flows } = fuzzer;
      console.log(
        `seed ${seed}: ${cases} cases, ${steps} steps, ${flows} flows on each of ${modes}; ${findings.length} findings`,
      );
      if (finding !== '') console.log(finding);
      seed++;
    }
    expect(findings.join('\n\n')).toBe('');
  });
});
