/**
 * The names that Kubernetes allows (RFC 1123, and the rules of labels). Length comes first in every test:
 * a name of 10 MB must cost nothing.
 */
const LABEL = /^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$/;
const SUBDOMAIN = /^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*$/;
const LABEL_VALUE = /^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?$/;
const UID = /^[A-Za-z0-9._:-]*$/;

/** RFC 1123 label: namespaces, services, port names. At most 63 characters. */
export function isLabel(text: string): boolean {
  return text.length <= 63 && LABEL.test(text);
}

/** RFC 1123 subdomain: slices, nodes, ServiceCIDRs, pods. At most 253 characters. */
export function isSubdomain(text: string): boolean {
  return text.length <= 253 && SUBDOMAIN.test(text);
}

/** The value of a label, such as a zone; never empty here. At most 63 characters. */
export function isLabelValue(text: string): boolean {
  return text.length <= 63 && LABEL_VALUE.test(text);
}

/** A qualified name: an optional subdomain with a slash before a label value (taint keys). */
export function isQualifiedName(text: string): boolean {
  if (text.length > 317) return false;
  const slash = text.indexOf('/');
  return slash < 0
    ? isLabelValue(text)
    : isSubdomain(text.slice(0, slash)) && isLabelValue(text.slice(slash + 1));
}

/** Mostly a UUID, but mirror pods and other makers of objects have their own. */
export function isUid(text: string): boolean {
  return text.length <= 128 && UID.test(text);
}
