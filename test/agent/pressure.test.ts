import { expect, test } from 'vitest';
import { PressureLog } from '../../src/agent/pressure.ts';
import { createLogger } from '../../src/observe/log.ts';

test('a table that fills up is said once, and once when it has room again', () => {
  const lines: string[] = [];
  const stream = { write: (line: string) => void lines.push(line) };
  const pressure = new PressureLog(createLogger({ verbosity: 0, format: 'json', stream }));
  const look = (used: number) => pressure.look([{ table: 'connections', used, limit: 100 }]);
  for (const used of [0, 89, 90, 95, 85, 99, 79, 50, 91, 100]) look(used);
  const said = lines.map((line) => {
    const { level, table, used, limit } = JSON.parse(line) as Record<string, unknown>;
    return [level, table, used, limit];
  });
  expect(said.map(([, table, used, limit]) => [table, used, limit])).toEqual([
    ['connections', 90, 100],
    ['connections', 79, 100],
    ['connections', 91, 100],
  ]);
  expect(said[0]![0]).not.toEqual(said[1]![0]);
});
