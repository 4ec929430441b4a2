/**
 * What is used of @kubernetes/client-node. Imported as a module of its own so that the bundle leaves out the rest, which
 * is 300,000 lines of API objects that would be read and compiled at each start (scripts/lib/build-steps.mjs).
 */
export { KubeConfig } from '@kubernetes/client-node';
