/**
 * The one table of errors. A code is stable: scripts and alerts may rely on it. docs/errors.md is made from
 * this table (scripts/docs.mjs), so `means` and `remedy` are written for the person who runs the node.
 */
export const ERRORS = {
  TP_BAD_FLAG: {
    means: 'A command line flag is unknown or its value cannot be used.',
    remedy: 'Correct the flag; triplane <command> --help lists them.',
  },
  TP_BAD_CONFIG: {
    means: 'The configuration file, or the kubeconfig, cannot be used.',
    remedy: 'Correct the named file, field or flag.',
  },
  TP_BAD_MANIFEST: {
    means: 'A manifest file or document is not valid YAML/JSON or no Kubernetes object.',
    remedy: 'Correct the file; what it said before stays in force until then.',
  },
  TP_NOT_KEPT: {
    means: 'What the manifests say could not be kept for the next start of the agent.',
    remedy:
      "Let the agent write to its admin socket's folder; until then, do not restart it over a broken file.",
  },
  TP_BAD_OBJECT: {
    means: 'A Service, EndpointSlice, Node, ServiceCIDR or Pod is malformed and was refused alone.',
    remedy: 'Correct the named field of the named object.',
  },
  TP_FRONTEND_TAKEN: {
    means: 'Two services claim the same address, protocol and port; the older one keeps it.',
    remedy: 'Change one of the two services.',
  },
  TP_TOO_MANY_ENDPOINTS: {
    means:
      'A service has more endpoints than a pool holds; the first ones in the order of their addresses serve it.',
    remedy: 'Divide the service into several.',
  },
  TP_EXTERNAL_IP: {
    means:
      'A Service asks for an external IP that --external-ip-cidrs does not allow; the rest of it is served.',
    remedy: 'Take the address out of spec.externalIPs, or allow its range.',
  },
  TP_NO_PRIVILEGE: {
    means: 'The process may not change the network of this node.',
    remedy: 'Run as root, or with the capabilities that the mode needs (docs/deployment.md).',
  },
  TP_NO_FEATURE: {
    means: 'The kernel lacks something that the chosen mode needs.',
    remedy: 'triplane probe shows what is missing and which modes can run.',
  },
  TP_NO_LIBRARY: {
    means: 'A shared library or the native addon is missing.',
    remedy: 'Install the named package, or run npm run setup.',
  },
  TP_LOCKED: {
    means: 'Another agent serves this network namespace.',
    remedy: 'Stop the named process first.',
  },
  TP_BUSY: {
    means: 'A switch to another mode is under way.',
    remedy: 'Wait until it is done; triplane get node shows it.',
  },
  TP_KERNEL_REFUSED: {
    means: 'The kernel refused a change.',
    remedy: 'The message names the object; the rest was applied. It is tried again at the next sync.',
  },
  TP_API: {
    means: 'The API server cannot be reached or refuses a request.',
    remedy: 'Check the kubeconfig, the network and the RBAC rules; traffic goes on as it was.',
  },
  TP_NO_AGENT: {
    means: 'No agent answers on the admin socket.',
    remedy: 'Start triplane run, or name its socket with --admin-socket.',
  },
} as const;

export type ErrorCode = keyof typeof ERRORS;

/** Every error that Triplane raises on purpose. The message is one line and names what is wrong. */
export class TriplaneError extends Error {
  readonly code: ErrorCode;
  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'TriplaneError';
    this.code = code;
  }
}
