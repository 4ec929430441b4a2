/** The device that holds service addresses in ipvs mode. Its addresses are services', never this node's own. */
export const SERVICE_LINK = 'triplane-ipvs0';
