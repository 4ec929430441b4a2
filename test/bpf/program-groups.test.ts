import { describe, expect, test } from 'vitest';
import { ABI } from '../../src/dataplane/ebpf/abi.ts';
import { bpfNative, bpfObjectPath, loadBpf } from '../../src/dataplane/ebpf/native.ts';
import { groupsOf, TAILS } from '../../src/dataplane/ebpf/program-groups.ts';

const programs = bpfNative().bpfPrograms(bpfObjectPath());

describe('the programs of the object', () => {
  test('are each in one group, and no group is empty', () => {
    expect(groupsOf(programs).flat().sort()).toEqual([...programs].sort());
    expect(groupsOf(programs)).toHaveLength(4);
    expect(groupsOf(['tp_xdp'])).toEqual([['tp_xdp']]);
    expect(groupsOf([])).toEqual([]);
  });

  test('that others jump to are there, one for each place', () => {
    expect(programs).toEqual(expect.arrayContaining(TAILS.map(([name]) => name)));
    expect(TAILS.map(([, place]) => place)).toEqual(Array.from({ length: ABI.TAILS }, (_, i) => i));
  });

  test('of fewer parts are loaded alone, and those that are left out are not there', async () => {
    const without = programs.filter((name) => name !== 'tp_bind4');
    const object = await loadBpf({
      path: bpfObjectPath(),
      pinRoot: '',
      maps: {},
      without,
      rodata: new Uint8Array(),
    });
    expect(Object.keys(object.programs())).toEqual(['tp_bind4']);
    object.close();
    expect(() => object.programs()).toThrow('closed');
  });
});
