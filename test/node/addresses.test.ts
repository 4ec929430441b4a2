import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { AddressBook } from '../../src/node/addresses.ts';
import {
  type RtChange,
  readAddresses,
  readDefaultRoutes,
  readLinks,
  readLocalRoutes,
  readNeighbours,
  readRoutes,
  watchRtnetlink,
} from '../../src/node/rtnetlink.ts';
import { canMakeNamespaces, eventually, makeNamespace, type Namespace } from './support/namespace.ts';

describe.skipIf(!canMakeNamespaces())('addresses of a namespace', () => {
  let ns: Namespace;
  const ip = (...args: string[]) => ns.run('ip', args);
  const texts = (book: AddressBook) =>
    book.addresses().map((row) => `${row.interfaceName} ${row.address}/${row.prefixLength}`);

  beforeAll(() => {
    ns = makeNamespace('tpaddr');
  });
  afterAll(() => ns?.remove());
  beforeEach(() => {
    ns.run('sh', ['-c', 'ip link del d0 2>/dev/null; ip link del d1 2>/dev/null; true']);
  });
  /** An interface with carrier: half of a veth pair whose other half is of no interest. */
  function addLink(name: string, ...options: string[]): void {
    ip('link', 'add', name, ...options, 'type', 'veth', 'peer', 'name', `${name}peer`);
    ip('link', 'set', `${name}peer`, 'addrgenmode', 'none', 'up');
    ip('link', 'set', name, 'up');
  }

  it('reads links and addresses as they are', () => {
    addLink('d0', 'address', '02:00:00:00:00:07', 'mtu', '1400');
    ip('addr', 'add', '10.1.0.1/24', 'dev', 'd0');
    ip('addr', 'add', '10.1.0.2/24', 'dev', 'd0');
    ip('addr', 'add', '10.2.0.1', 'peer', '10.2.0.9/32', 'dev', 'd0');
    ip('addr', 'add', 'fd00:1::1/64', 'dev', 'd0', 'preferred_lft', '0');
    const link = readLinks(ns.path).find((row) => row.name === 'd0')!;
    expect(link).toMatchObject({ mtu: 1400, type: 'veth', mac: '02:00:00:00:00:07', masterIndex: 0 });
    expect(link.flags & 1).toBe(1);
    const book = new AddressBook(ns.path);
    const rows = book.addresses();
    book.close();
    const find = (address: string) => rows.find((row) => row.address === address)!;
    expect(find('127.0.0.1')).toMatchObject({
      family: 4,
      prefixLength: 8,
      scope: 'host',
      interfaceName: 'lo',
    });
    expect(find('10.1.0.1')).toMatchObject({
      scope: 'global',
      secondary: false,
      interfaceIndex: link.index,
      interfaceName: 'd0',
    });
    expect(find('10.1.0.2')).toMatchObject({ secondary: true, temporary: false });
    expect(find('10.2.0.9')).toBeUndefined();
    expect(find('10.2.0.1')).toMatchObject({ prefixLength: 32 });
    expect(find('fd00:1::1')).toMatchObject({
      family: 6,
      deprecated: true,
      temporary: false,
      tentative: false,
    });
    expect(rows.find((row) => row.address.startsWith('fe80:'))).toMatchObject({ scope: 'link', family: 6 });
    expect(readAddresses(ns.path).find((row) => row.address === '10.2.0.1')!.peer).toBe('10.2.0.9');
  });

  it('marks an address whose duplicate detection has not ended', () => {
    addLink('d0');
    ns.run('sysctl', ['-q', '-w', 'net.ipv6.conf.d0.accept_dad=1', 'net.ipv6.conf.d0.dad_transmits=30']);
    ip('addr', 'add', 'fd00:2::1/64', 'dev', 'd0');
    const book = new AddressBook(ns.path);
    expect(book.addresses().find((row) => row.address === 'fd00:2::1')).toMatchObject({ tentative: true });
    book.close();
  });

  it('tells one change for what happens in one turn, and nothing for what changes nothing', async () => {
    addLink('d0');
    const book = new AddressBook(ns.path);
    let calls = 0;
    book.onChange(() => calls++);
    await new Promise((resolve) => setTimeout(resolve, 50));
    calls = 0;
    // Synchronous commands: all of it is queued when the loop turns.
    ns.run(
      'ip',
      ['-batch', '-'],
      Array.from({ length: 50 }, (_, i) => `addr add 10.3.0.${i + 1}/32 dev d0`).join('\n'),
    );
    await eventually(() => texts(book).length > 50);
    await new Promise((resolve) => setImmediate(resolve));
    expect(calls).toBe(1);
    expect(texts(book)).toContain('d0 10.3.0.50/32');
    ip('addr', 'replace', '10.3.0.1/32', 'dev', 'd0');
    ip('link', 'set', 'd0', 'mtu', '1300');
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(calls).toBe(1);
    book.close();
  });

  it('follows removal, renaming, and the end of an interface', async () => {
    const book = new AddressBook(ns.path);
    let calls = 0;
    book.onChange(() => calls++);
    addLink('d0');
    ip('addr', 'add', '10.4.0.1/24', 'dev', 'd0');
    ip('addr', 'add', 'fd00:4::1/64', 'dev', 'd0', 'nodad');
    await eventually(() => texts(book).includes('d0 10.4.0.1/24') && texts(book).includes('d0 fd00:4::1/64'));
    ip('link', 'set', 'd0', 'name', 'd1');
    await eventually(() => texts(book).includes('d1 10.4.0.1/24'));
    ip('addr', 'del', '10.4.0.1/24', 'dev', 'd1');
    await eventually(() => !texts(book).includes('d1 10.4.0.1/24'));
    ip('addr', 'add', '10.4.0.2/24', 'dev', 'd1');
    await eventually(() => texts(book).includes('d1 10.4.0.2/24'));
    ip('link', 'del', 'd1');
    await eventually(() => texts(book).every((row) => row.startsWith('lo ')));
    const before = calls;
    book.close();
    addLink('d0');
    ip('addr', 'add', '10.4.0.1/24', 'dev', 'd0');
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(calls).toBe(before);
  });

  it('is right again after the kernel had to drop notifications', async () => {
    addLink('d0');
    const book = new AddressBook(ns.path);
    let overruns = 0;
    const monitor = watchRtnetlink(ns.path, ['link', 'address'], {
      onChanges: () => {},
      onOverrun: () => overruns++,
    });
    const flood = Array.from(
      { length: 40_000 },
      (_, i) => `addr ${i % 2 === 0 ? 'add' : 'del'} 10.5.0.1/32 dev d0`,
    );
    ns.run('ip', ['-batch', '-'], [...flood, 'addr add 10.5.0.2/32 dev d0'].join('\n'));
    await eventually(() => overruns > 0);
    monitor.close();
    const dumped = () =>
      readAddresses(ns.path)
        .map((row) => `${row.address}/${row.prefixLength}`)
        .sort();
    const known = () =>
      book
        .addresses()
        .map((row) => `${row.address}/${row.prefixLength}`)
        .sort();
    expect(dumped()).toContain('10.5.0.2/32');
    expect(dumped()).not.toContain('10.5.0.1/32');
    await eventually(() => known().join() === dumped().join());
    // And it goes on telling.
    ip('addr', 'add', '10.5.0.3/32', 'dev', 'd0');
    await eventually(() => known().includes('10.5.0.3/32'));
    book.close();
  });

  it('finds the address of the default route', async () => {
    const book = new AddressBook(ns.path);
    expect(await book.defaultAddress(4)).toBeNull();
    expect(await book.defaultAddress(6)).toBeNull();
    for (const name of ['d0', 'd1']) addLink(name);
    ip('addr', 'add', '10.6.0.1/24', 'dev', 'd0');
    ip('addr', 'add', 'fd00:6::1/64', 'dev', 'd0');
    ip('addr', 'add', '10.7.0.1/24', 'dev', 'd1');
    ip('addr', 'add', '10.7.0.2/24', 'dev', 'd1');
    ip('route', 'add', 'default', 'via', '10.7.0.254', 'metric', '200');
    ip('-6', 'route', 'add', 'default', 'via', 'fd00:6::fe', 'dev', 'd0');
    await eventually(() => texts(book).includes('d1 10.7.0.2/24'));
    expect(await book.defaultAddress(4)).toBe('10.7.0.1');
    expect(await book.defaultAddress(6)).toBe('fd00:6::1');
    ip('route', 'add', 'default', 'via', '10.7.0.254', 'src', '10.7.0.2', 'metric', '150');
    expect(await book.defaultAddress(4)).toBe('10.7.0.2');
    ip('route', 'add', 'default', 'via', '10.6.0.254', 'metric', '100', 'table', '1000');
    expect(await book.defaultAddress(4)).toBe('10.7.0.2');
    ip(
      'route',
      'add',
      'default',
      'metric',
      '50',
      'nexthop',
      'via',
      '10.6.0.254',
      'nexthop',
      'via',
      '10.7.0.254',
    );
    expect(await book.defaultAddress(4)).toBe('10.6.0.1');
    expect((await readDefaultRoutes(ns.path)).filter((route) => route.family === 4)).toHaveLength(4);
    ip('route', 'flush', 'table', '1000');
    book.close();
  });

  it('reads routes and neighbours, and tells their changes', async () => {
    addLink('d0');
    ip('addr', 'add', '10.8.0.1/24', 'dev', 'd0');
    ip('addr', 'add', 'fd00:8::1/64', 'dev', 'd0');
    const index = readLinks(ns.path).find((row) => row.name === 'd0')!.index;
    const changes: RtChange[] = [];
    const monitor = watchRtnetlink(ns.path, ['route', 'neighbour'], {
      onChanges: (list) => changes.push(...list),
      onOverrun: () => {},
    });
    ip('route', 'add', '10.99.0.0/16', 'via', '10.8.0.7', 'metric', '5', 'src', '10.8.0.1');
    ip('route', 'add', '10.98.0.0/16', 'via', 'inet6', 'fd00:8::7');
    ip('-6', 'route', 'add', 'fd00:99::/32', 'via', 'fd00:8::7');
    ip('-6', 'route', 'add', 'unreachable', '::ffff:10.0.0.0/104');
    ip('neigh', 'add', '10.8.0.7', 'lladdr', '02:00:00:00:00:09', 'dev', 'd0', 'nud', 'permanent');
    const routes = await readRoutes(ns.path);
    const local = routes.filter(({ table }) => table === 255);
    expect(local.length).toBeGreaterThan(0);
    expect(await readLocalRoutes(ns.path)).toEqual(local);
    const find = (destination: string) => routes.find((row) => row.destination === destination);
    expect(find('10.99.0.0/16')).toMatchObject({
      gateway: '10.8.0.7',
      source: '10.8.0.1',
      linkIndex: index,
      priority: 5,
      table: 254,
      type: 1,
    });
    expect(find('10.98.0.0/16')).toMatchObject({ gateway: 'fd00:8::7', source: null });
    expect(find('fd00:99::/32')).toMatchObject({ gateway: 'fd00:8::7', linkIndex: index });
    expect(find('::ffff:a00:0/104')).toMatchObject({ family: 6, gateway: null });
    const neighbour = { address: '10.8.0.7', mac: '02:00:00:00:00:09', linkIndex: index, state: 0x80 };
    expect((await readNeighbours(ns.path)).find((row) => row.address === '10.8.0.7')).toMatchObject(
      neighbour,
    );
    ip('neigh', 'del', '10.8.0.7', 'dev', 'd0');
    ip('route', 'del', '10.99.0.0/16');
    const told = (op: string, kind: string, what: string) =>
      changes.some(
        (change) =>
          change.op === op &&
          change.record.kind === kind &&
          ('destination' in change.record
            ? change.record.destination
            : 'address' in change.record
              ? change.record.address
              : '') === what,
      );
    await eventually(() => told('delete', 'route', '10.99.0.0/16'));
    expect(told('set', 'route', '10.99.0.0/16')).toBe(true);
    expect(told('set', 'neighbour', '10.8.0.7')).toBe(true);
    await eventually(() => told('delete', 'neighbour', '10.8.0.7'));
    monitor.close();
  });

  it('names the path of a namespace that is not there', () => {
    expect(() => new AddressBook('/run/netns/tp-none')).toThrow(expect.objectContaining({ code: 'ENOENT' }));
  });
});
