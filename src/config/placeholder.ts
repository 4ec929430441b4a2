import type { OptionSpec } from './spec.ts';

/** What stands for a flag's value in help and documentation. */
export function placeholder(spec: OptionSpec): string {
  switch (spec.kind) {
    case 'bool':
      return 'true|false';
    case 'integer':
    case 'number':
      return 'number';
    case 'duration':
      return 'duration';
    case 'address':
      return 'address';
    case 'socket':
      return 'address:port';
    case 'cidrs':
      return 'cidr,...';
    case 'nodeports':
      return 'primary|all|cidr,...';
    case 'gates':
      return 'name=bool,...';
    case 'choice':
      return (spec.choices ?? []).length > 6 ? 'name' : (spec.choices ?? []).join('|');
    default:
      return /-(root|socket)$|^(kubeconfig|config|manifests|write-config-to)$/.test(spec.flag)
        ? 'path'
        : 'text';
  }
}
