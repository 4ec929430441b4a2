/** What the ipvs mode needs: the netlink family, schedulers, a device for addresses, and rules beside it. */
import { IpvsDataplane } from '../dataplane/ipvs/ipvs-dataplane.ts';
import { ipvsNative, openIpvsSocket } from '../dataplane/ipvs/native.ts';
import { writeService } from '../dataplane/ipvs/packed-ipvs.ts';
import { PackedWriter } from '../dataplane/nft/packed.ts';
import type { Feature } from '../node/switches.ts';
import type { ProbeRow } from './report.ts';
import { sampleState } from './sample.ts';
import { attempt, carry, type Need } from './trial.ts';

const AFFINITY_SECONDS = 60;
const SCHEDULERS = ['wrr', 'lc', 'wlc', 'lblc', 'lblcr', 'dh', 'sh', 'sed', 'nq', 'mh'];
const PROBE_MARK = 0x70726f62;
const PROBE_LINK = 'triplane-probe0';

function need(text: string, weight: Need['weight'], remedy: string, ...features: Feature[]): Need {
  return { mode: 'ipvs', need: text, weight, remedy, features: ['ipvs', 'nft', ...features] };
}

/** Makes a virtual service with each scheduler; throws naming those that the kernel lacks. */
async function trySchedulers(netns: string): Promise<void> {
  const socket = openIpvsSocket(netns);
  try {
    const out = new PackedWriter();
    SCHEDULERS.forEach((scheduler, at) => {
      const name = { family: 4, mark: PROBE_MARK + at } as const;
      writeService(out, 'newService', name, { scheduler, flags: 0, timeoutSeconds: 0 });
    });
    const refused = await socket.commit(Buffer.from(out.take()));
    if (refused.length > 0) throw new Error(`not here: ${refused.map((r) => SCHEDULERS[r.index]).join(' ')}`);
  } finally {
    socket.close();
  }
}

/** Needs no privilege: every process may ask for the netlink family. */
export function probeIpvsFamily(): Promise<ProbeRow> {
  return attempt(
    need('IPVS over generic netlink', 'required', 'modprobe ip_vs, or a kernel that has it'),
    () => {
      try {
        openIpvsSocket('').close();
      } catch (error) {
        const { code } = error as { code?: string };
        if (code === 'TP_NO_FEATURE') throw new Error('there is no such netlink family', { cause: error });
        // The family answered: it is there, and may not be used by us.
        if (code !== 'TP_NO_PRIVILEGE') throw error;
      }
    },
  );
}

export async function probeIpvs(netns: string): Promise<ProbeRow[]> {
  const open = () => new IpvsDataplane({ netns });
  // IPVS takes a backend only where there is a table of local addresses, which comes with the first device.
  ipvsNative().ipvsLink(netns, 'lo', '');
  const family = await probeIpvsFamily();
  if (family.answer !== 'yes') return [family];
  return [
    family,
    await attempt(
      need('a service of both families, with its rules', 'required', 'load ip_vs_rr and nf_tables'),
      () => carry(open, sampleState([4, 6], 0)),
    ),
    await attempt(need('session affinity', 'better', 'load nf_tables with nft_ct'), () =>
      carry(open, sampleState([4, 6], AFFINITY_SECONDS)),
    ),
    await attempt(
      need(
        'all schedulers',
        'better',
        'load the modules ip_vs_NAME; a service that asks for another one is refused',
      ),
      () => trySchedulers(netns),
    ),
    await attempt(
      need(
        'a dummy device',
        'better',
        'modprobe dummy; until then a link of another kind carries the service addresses, or local routes',
        'dummy',
      ),
      () => {
        const errno = ipvsNative().ipvsLink(netns, PROBE_LINK, 'dummy');
        if (errno !== '') throw Object.assign(new Error(errno), { code: errno });
      },
    ),
  ];
}
