/** What can only be judged when all settings are known: rules between settings, names and paths. */
import { nameOf, refuse, type Setting, type Settings } from './settings.ts';
import { quote, textOfValue } from './values.ts';

/** IFNAMSIZ less the final zero (linux/if.h). */
const INTERFACE_NAME_BYTES_MAX = 15;
/** sizeof(sun_path) less the final zero (linux/un.h). */
const SOCKET_PATH_BYTES_MAX = 107;

/** Throws TP_BAD_FLAG if a flag is to blame, else TP_BAD_CONFIG; the message holds everything that is wrong. */
export function checkTogether(settings: Settings): void {
  const found: { setting: Setting; reason: string }[] = [];
  const blame = (key: string, reason: string) => found.push({ setting: settings.get(key)!, reason });
  checkPeriods(settings, blame);
  checkDetector(settings, blame);
  checkPaths(settings, blame);
  checkMaster(settings, blame);
  checkName(settings, blame);
  const lines = (from: 'flag' | 'other') =>
    found
      .filter(({ setting }) => (setting.from === 'flag') === (from === 'flag'))
      .map(({ setting, reason }) => `${nameOf(setting)}: ${reason}`);
  refuse('TP_BAD_FLAG', lines('flag'));
  refuse('TP_BAD_CONFIG', lines('other'));
}

type Blame = (key: string, reason: string) => void;

function checkPeriods(settings: Settings, blame: Blame): void {
  const least = settings.get('minSyncPeriodMs')!;
  const period = settings.get('syncPeriodMs')!;
  if ((least.value as number) <= (period.value as number)) return;
  const culprit = least.from === 'default' ? 'syncPeriodMs' : 'minSyncPeriodMs';
  blame(
    culprit,
    `the least period ${textOfValue(least.spec, least.value)} is longer than the sync period ${textOfValue(period.spec, period.value)}`,
  );
}

function checkDetector(settings: Settings, blame: Blame): void {
  const mode = settings.get('detectLocalMode')!.value;
  for (const [key, needed] of [
    ['podBridgeInterface', 'BridgeInterface'],
    ['podInterfaceNamePrefix', 'InterfaceNamePrefix'],
  ] as const) {
    const name = settings.get(key)!.value as string;
    if (name === '' && mode === needed) blame(key, `must be given with --detect-local-mode=${needed}`);
    if (name === '') continue;
    if (
      Buffer.byteLength(name) > INTERFACE_NAME_BYTES_MAX ||
      !/^[!-.0-~]+$/.test(name) ||
      name.includes(':')
    ) {
      blame(key, `${quote(name)} is no interface name (up to 15 characters, without blanks, / and :)`);
    }
  }
}

function checkPaths(settings: Settings, blame: Blame): void {
  for (const key of ['adminSocket', 'cgroupRoot', 'bpfRoot']) {
    const path = settings.get(key)!.value as string;
    if (path !== '' && !path.startsWith('/')) blame(key, `${quote(path)} is not an absolute path`);
  }
  const socket = settings.get('adminSocket')!.value as string;
  if (Buffer.byteLength(socket) > SOCKET_PATH_BYTES_MAX) {
    blame('adminSocket', `${quote(socket)} is longer than ${SOCKET_PATH_BYTES_MAX} bytes`);
  }
  const pins = settings.get('bpfRoot')!.value as string;
  // The BPF file system refuses names with a dot (kernel/bpf/inode.c, bpf_lookup).
  if (pins === '' || pins.includes('.')) blame('bpfRoot', `${quote(pins)} must be a path without a dot`);
}

function checkMaster(settings: Settings, blame: Blame): void {
  const master = settings.get('master')!.value as string;
  if (master === '') return;
  // client-go takes a bare host and port as http.
  const url = /^[a-z][a-z0-9+.-]*:\/\//i.test(master) ? master : `http://${master}`;
  if (!URL.canParse(url) || !/^https?:/i.test(url)) {
    blame('master', `${quote(master)} is no http or https URL`);
  }
}

function checkName(settings: Settings, blame: Blame): void {
  const raw = settings.get('hostnameOverride')!.value as string;
  const name = raw.trim().toLowerCase();
  // RFC 1123 subdomain, as Kubernetes wants of a Node's name.
  const label = '[a-z0-9]([-a-z0-9]*[a-z0-9])?';
  if (name === '') {
    if (raw !== '') blame('hostnameOverride', 'must not be blank');
  } else if (name.length > 253 || !new RegExp(`^${label}(\\.${label})*$`).test(name)) {
    blame('hostnameOverride', `${quote(name)} is no name of a Node (letters, digits, - and .)`);
  }
}
