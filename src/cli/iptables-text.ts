/** What iptables-save prints, and the text for iptables-restore --noflush that takes kube-proxy's part out of it. */

/** Chains of kube-proxy: its own name, or a service's, endpoint's, firewall's or external one's hash. */
const OWN =
  /^KUBE-(SERVICES|EXTERNAL-SERVICES|NODEPORTS|NODE-PORT|POSTROUTING|FORWARD|MARK-MASQ|LOAD-BALANCER|PROXY-FIREWALL|PROXY-CANARY|SOURCE-RANGES-FIREWALL|IPVS-FILTER|IPVS-OUT-FILTER|(SVC|SVL|SEP|FW|EXT|XLB)-[A-Z0-9]+)$/;

export const isOwnChain = (name: string): boolean => OWN.test(name);

export interface Leftovers {
  /** For iptables-restore --noflush; '' when there is nothing of kube-proxy's. */
  readonly restore: string;
  readonly chains: number;
  readonly rules: number;
}

/**
 * Rules of foreign chains that jump into kube-proxy's are deleted word for word, kube-proxy's chains are emptied and
 * removed. The kubelet's chains (KUBE-FIREWALL, KUBE-KUBELET-CANARY, KUBE-MARK-DROP) and everybody else's stay.
 */
export function leftoversIn(saved: string): Leftovers {
  const out: string[] = [];
  let chains = 0;
  let rules = 0;
  let table: { name: string; own: string[]; jumps: string[] } | null = null;
  for (const line of saved.split('\n')) {
    if (line.startsWith('*')) table = { name: line.slice(1).trim(), own: [], jumps: [] };
    else if (table === null) continue;
    else if (line.startsWith(':')) {
      const chain = line.slice(1).split(' ')[0]!;
      if (OWN.test(chain)) table.own.push(chain);
    } else if (/^(\[\d+:\d+\] )?-A /.test(line)) {
      const rule = line.replace(/^\[\d+:\d+\] /, '');
      const [, chain, target] = /^-A (\S+) .*-[jg] (\S+)/.exec(`${rule} `) ?? [];
      if (chain !== undefined && !OWN.test(chain) && OWN.test(target!))
        table.jumps.push(`-D${rule.slice(2)}`);
      if (OWN.test(/^-A (\S+)/.exec(rule)?.[1] ?? '')) rules++;
    } else if (line.trim() === 'COMMIT') {
      if (table.own.length + table.jumps.length > 0) {
        chains += table.own.length;
        rules += table.jumps.length;
        // A chain that is declared is emptied, in one transaction with the rest.
        const declared = table.own.map((chain) => `:${chain} - [0:0]`);
        const removed = table.own.map((chain) => `-X ${chain}`);
        out.push(`*${table.name}`, ...declared, ...table.jumps, ...removed, 'COMMIT');
      }
      table = null;
    }
  }
  return { restore: out.length > 0 ? `${out.join('\n')}\n` : '', chains, rules };
}
