/** From an error to an answer. */
import { describe, expect, test } from 'vitest';
import { TriplaneError } from '../../src/model/errors.ts';
import { answerOf, attempt, type Need, orUntried } from '../../src/probe/trial.ts';

const NEED: Need = { mode: 'ebpf', need: 'a thing', weight: 'required', remedy: 'get it' };
const withCode = (code: string) => Object.assign(new Error('refused\nand more'), { code });

describe('a trial', () => {
  test.each([
    ['works', null, 'yes', ''],
    ['is refused', withCode('EINVAL'), 'no', 'get it: refused'],
    ['lacks privilege', withCode('EPERM'), 'unknown', 'run as root to try it'],
    ['lacks privilege by another name', withCode('EACCES'), 'unknown', 'run as root to try it'],
    [
      'lacks it by our own word',
      new TriplaneError('TP_NO_PRIVILEGE', 'x'),
      'unknown',
      'run as root to try it',
    ],
    ['lacks the feature', new TriplaneError('TP_NO_FEATURE', 'no such thing'), 'no', 'get it: no such thing'],
    ['meets a shortage', withCode('ENOMEM'), 'unknown', 'too little to try it: refused'],
    [
      'meets a shortage that we have a word for',
      new TriplaneError('TP_KERNEL_REFUSED', 'no programs', { cause: withCode('ENOMEM') }),
      'unknown',
      'too little to try it: no programs',
    ],
    [
      'asks for room that is not there',
      new Error('512 MiB: no memory', { cause: withCode('ENOMEM') }),
      'no',
      'get it: 512 MiB: no memory',
    ],
    ['fails with what is no error', 'odd', 'no', 'get it: odd'],
  ] as const)('that %s', (_title, error, answer, remedy) => {
    expect(answerOf(NEED, error)).toEqual({
      mode: 'ebpf',
      need: 'a thing',
      weight: 'required',
      answer,
      remedy,
    });
  });

  test('that has no place to be tried in says nothing of the kernel', async () => {
    const row = await attempt(NEED, () =>
      orUntried(() => {
        throw withCode('EROFS');
      }),
    );
    expect(row).toMatchObject({ answer: 'unknown', remedy: 'there is no place to try it: refused' });
  });
});
