// The first root of a booted kernel: a static busybox and the modules that reach the host's files over 9p. Its
// init puts a writable layer over them (kept in memory) and runs one command there.
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { root } from '../lib/files.mjs';
import { runQuietly } from '../lib/run.mjs';

const BUSYBOX = '/bin/busybox';
const NEEDED = ['virtio_pci', '9pnet_virtio', '9p', 'overlay'];

/** Paths of modules below lib/modules/<version>, in the order in which they must be loaded. */
function moduleOrder(folder) {
  const dependencies = new Map();
  for (const line of readFileSync(path.join(folder, 'modules.dep'), 'utf8').split('\n')) {
    const [file, rest] = line.split(':');
    if (file) dependencies.set(file, (rest ?? '').trim().split(' ').filter(Boolean));
  }
  const nameOf = (file) => path.basename(file).replace(/\.ko(\.\w+)?$/, '');
  const order = [];
  for (const name of NEEDED) {
    const file = [...dependencies.keys()].find((one) => nameOf(one) === name);
    // Not a module: built in.
    if (!file) continue;
    // modules.dep names what is needed first last.
    for (const one of [...dependencies.get(file).toReversed(), file])
      if (!order.includes(one)) order.push(one);
  }
  return order;
}

/** /tmp is new in there, unless this checkout stands in it: then it is this machine's, under the layer like all else. */
const TMP = root.startsWith('/tmp/') ? '' : '$B mount -t tmpfs -o mode=1777 tmpfs tmp';

/** The script that busybox runs as process 1. What it says goes to the console, which is read on failure only. */
const INIT = `#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mount -t devtmpfs dev /dev
for m in $($B cat /order); do $B insmod /modules/$m || echo "triplane-vm: insmod $m failed"; done
fail() { echo "triplane-vm: $1"; $B poweroff -f; }
O=trans=virtio,version=9p2000.L,msize=524288
$B mount -t tmpfs -o size=75% tmpfs /layer
$B mkdir -p /layer/up /layer/work
$B mount -t 9p -o ro,cache=loose,$O host /host || fail "no host files"
$B mount -t overlay -o lowerdir=/host,upperdir=/layer/up,workdir=/layer/work overlay /new || fail "no overlay"
cd /new
for d in proc sys dev tmp run; do $B mkdir -p $d; done
$B mount -t proc proc proc
$B mount -t sysfs sys sys
$B mount -t devtmpfs dev dev
$B mkdir -p dev/pts dev/shm
$B mount -t devpts devpts dev/pts
$B mount -t tmpfs shm dev/shm
${TMP}
$B mount -t tmpfs tmpfs run
$B mkdir -p sys/fs/cgroup run/lock
$B mount -t cgroup2 cgroup2 sys/fs/cgroup
$B mount -t bpf bpf sys/fs/bpf
$B mkdir -p triplane-vm
$B mount -t 9p -o rw,$O exchange triplane-vm || fail "no exchange folder"
$B mkdir -p usr/lib/modules
$B mount -t 9p -o ro,cache=loose,$O modules usr/lib/modules || fail "no modules"
$B ip link set lo up
$B hostname triplane-vm
$B cp $B /new/run/busybox
$B cp /finish /new/run/finish
# As process 1, so that the modules that the kernel asks for are found in the new root, too.
exec $B switch_root /new /run/busybox sh /run/finish
`;

const FINISH = `B=/run/busybox
/bin/sh /triplane-vm/command >/triplane-vm/output 2>&1
echo $? >/triplane-vm/status
$B sync
$B poweroff -f
`;

/** Writes the initramfs for an unpacked kernel (see catalog.mjs) to `file`. */
export async function writeInitramfs(kernel, file) {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'triplane-initramfs-'));
  try {
    for (const part of ['bin', 'proc', 'sys', 'dev', 'host', 'layer', 'new', 'modules'])
      mkdirSync(path.join(folder, part));
    copyFileSync(BUSYBOX, path.join(folder, 'bin/busybox'));
    writeFileSync(path.join(folder, 'init'), INIT, { mode: 0o755 });
    writeFileSync(path.join(folder, 'finish'), FINISH);
    const modules = path.join(kernel.modules, 'lib/modules', kernel.version);
    const order = [];
    for (const module of moduleOrder(modules)) order.push(await copyModule(modules, module, folder));
    writeFileSync(path.join(folder, 'order'), `${order.join('\n')}\n`);
    const pack = 'cd "$1" && find . -print0 | cpio --null --create --format=newc --quiet > "$2"';
    const { status, output } = await runQuietly('sh', ['-c', pack, 'sh', folder, file]);
    if (status !== 0) throw new Error(`cpio: ${output.trim()}`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** busybox's insmod reads no compressed modules. */
async function copyModule(modules, module, folder) {
  const name = path.basename(module).replace(/\.xz$/, '');
  const target = path.join(folder, 'modules', name);
  if (!module.endsWith('.xz')) {
    copyFileSync(path.join(modules, module), target);
    return name;
  }
  const unpack = 'xz -dc "$1" > "$2"';
  const { status, output } = await runQuietly('sh', ['-c', unpack, 'sh', path.join(modules, module), target]);
  if (status !== 0) throw new Error(`xz: ${output.trim()}`);
  return name;
}
