/** Words for HTML and SVG text. */
const NAMES: Readonly<Record<string, string>> = { '&': 'amp', '<': 'lt', '>': 'gt', '"': 'quot', "'": '#39' };

export function escapeText(text: string): string {
  return text.replaceAll(/[&<>"']/g, (char) => `&${NAMES[char]};`);
}
