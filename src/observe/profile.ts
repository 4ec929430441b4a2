/** Profiles of the running agent, in V8's formats: for Chrome's developer tools or speedscope. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { Session } from 'node:inspector/promises';
import { pipeline } from 'node:stream/promises';
import { getHeapSnapshot } from 'node:v8';
import { reply } from './http.ts';

const SECONDS_DEFAULT = 30;
const SECONDS_MAX = 300;
/** One at a time: two CPU profiles would measure each other. */
let running = false;

/** GET /debug/pprof/profile?seconds=30: a .cpuprofile. */
export async function serveCpuProfile(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const asked = Number(
    new URL(request.url ?? '/', 'http://agent').searchParams.get('seconds') ?? SECONDS_DEFAULT,
  );
  const seconds = Number.isFinite(asked) && asked > 0 ? Math.min(asked, SECONDS_MAX) : SECONDS_DEFAULT;
  await alone(response, async () => {
    const session = new Session();
    session.connect();
    try {
      await session.post('Profiler.enable');
      await session.post('Profiler.start');
      await pause(seconds * 1000, response);
      const { profile } = await session.post('Profiler.stop');
      attach(response, 'triplane.cpuprofile');
      response.end(JSON.stringify(profile));
    } finally {
      session.disconnect();
    }
  });
}

/** GET /debug/pprof/heap: a .heapsnapshot. The agent stands still while it is taken. */
export async function serveHeapSnapshot(response: ServerResponse): Promise<void> {
  await alone(response, async () => {
    attach(response, 'triplane.heapsnapshot');
    await pipeline(getHeapSnapshot(), response);
  });
}

async function alone(response: ServerResponse, work: () => Promise<void>): Promise<void> {
  if (running) return reply(response, 409, 'text/plain; charset=utf-8', 'another profile is being taken\n');
  running = true;
  try {
    await work();
  } catch (error) {
    if (response.headersSent) response.destroy();
    else reply(response, 500, 'text/plain; charset=utf-8', `${(error as Error).message}\n`);
  } finally {
    running = false;
  }
}

/** Waits, but no longer than the reader does. */
function pause(ms: number, response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    response.once('close', done);
    function done(): void {
      clearTimeout(timer);
      response.off('close', done);
      resolve();
    }
  });
}

function attach(response: ServerResponse, name: string): void {
  response.writeHead(200, {
    'Content-Type': 'application/octet-stream',
    'Content-Disposition': `attachment; filename="${name}"`,
    'X-Content-Type-Options': 'nosniff',
  });
}
