// Every entry script imports this first. It and they use only syntax that Node 12 can read (Ubuntu 22.04's own
// Node), so that an old Node says one clear sentence and not "SyntaxError: Unexpected token".

/** The same as "engines" in package.json: ^20.19.0 || >=22.19.0. */
export function nodeIsRecentEnough(version) {
  const parts = version.split('.').map(Number);
  const major = parts[0];
  const minor = parts[1];
  if (major === 20) return minor >= 19;
  if (major === 22) return minor >= 19;
  return major > 22;
}

export function requireNode() {
  if (nodeIsRecentEnough(process.versions.node)) return;
  process.stderr.write(
    `Triplane needs Node 20.19 or newer (22.19 or newer of 22), and this is Node ${process.versions.node} at ${process.execPath}: ` +
      'install a current one, for example from nodejs.org or nodesource.com, and run this again.\n',
  );
  process.exit(1);
}
