/** The device that holds service addresses in ipvs mode. Its addresses are services', never this node's own. */
export const SERVICE_LINK = 'triplane-ipvs0';
/** kube-proxy's, which may stand beside ours while one takes over from the other (pkg/proxy/ipvs/proxier.go). */
export const KUBE_PROXY_LINK = 'kube-ipvs0';

/** Whether addresses of this device are services'. */
export function isServiceLink(name: string): boolean {
  return name === SERVICE_LINK || name === KUBE_PROXY_LINK;
}
