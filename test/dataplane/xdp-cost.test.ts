/** Where XDP stays away by itself. */
import { expect, test } from 'vitest';
import { xdpCost } from '../../src/dataplane/ebpf/xdp-cost.ts';

test.each([
  ['veth', '', /veth/],
  ['veth', 'virtio_net', /veth/],
  ['', 'virtio_net', /virtio_net/],
  ['', 'mlx5_core', /^$/],
  ['', 'ena', /^$/],
  ['bond', '', /^$/],
  ['tun', '', /^$/],
])('type %j, driver %j', (type, driver, reason) => {
  expect(xdpCost({ type, name: 'eth0' }, () => driver)).toMatch(reason);
});

test('a device without a driver, or of a name that says nothing, has no cost', () => {
  for (const name of ['lo', 'nowhere', '../../../..']) expect(xdpCost({ type: '', name })).toBe('');
});
