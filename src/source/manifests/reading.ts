/** One reading of one manifest file: its claims, and what is wrong with the file itself. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { ErrorCode } from '../../model/errors.ts';
import { DECODERS, type Sorted, sortObject } from '../decode/object.ts';
import { parseManifest } from './parse.ts';
import { ClaimCollector, type FileReading } from './state.ts';

/** Lists within lists within lists are nobody's manifest. */
const LIST_DEPTH_MAX = 3;
/** Objects decoded before the event loop gets its turn. */
const OBJECTS_A_TURN = 500;

export interface DocumentProblem {
  readonly code: ErrorCode;
  readonly label: string;
  readonly reason: string;
}

export interface ManifestReading extends FileReading {
  readonly problems: readonly DocumentProblem[];
  /** Objects of kinds that are not ours. */
  readonly foreign: number;
}

interface Leaf {
  readonly sorted: Exclude<Sorted, { is: 'list' }>;
  readonly label: string;
}

/** The objects in a document, out of their lists. */
function* leavesOf(sorted: Sorted, label: string, depth: number): Generator<Leaf> {
  if (sorted.is !== 'list') {
    yield { sorted, label };
  } else if (depth >= LIST_DEPTH_MAX) {
    yield { sorted: { is: 'nothing', reason: 'lists are nested too deep' }, label };
  } else {
    const inherited = { kind: sorted.itemKind, apiVersion: sorted.apiVersion };
    for (const [i, item] of sorted.items.entries()) {
      const itemLabel = sorted.items.length === 1 ? label : `${label} item ${i + 1}`;
      yield* leavesOf(sortObject(item, inherited), itemLabel, depth + 1);
    }
  }
}

class Reader {
  readonly claims = new ClaimCollector();
  readonly problems: DocumentProblem[] = [];
  foreign = 0;
  /** The last object is malformed: as it would be when the file was cut off in it. */
  endsBadly = false;

  take({ sorted, label }: Leaf): void {
    this.endsBadly = false;
    if (sorted.is === 'foreign') this.foreign++;
    else if (sorted.is === 'nothing') this.refuse(label, sorted.reason);
    else {
      const decoded = DECODERS[sorted.kind](sorted.raw);
      if (decoded.outcome === 'refused' && decoded.key === null) {
        this.problems.push({ code: 'TP_BAD_OBJECT', label, reason: `${decoded.object}: ${decoded.reason}` });
        return;
      }
      this.claims.add(decoded, label);
      this.endsBadly =
        decoded.outcome === 'refused' || (decoded.outcome === 'record' && decoded.faults.length > 0);
    }
  }

  refuse(label: string, reason: string): void {
    this.problems.push({ code: 'TP_BAD_MANIFEST', label, reason });
  }
}

/** Parses and decodes a manifest. Never throws for what it says. */
export async function readDocuments(text: string): Promise<ManifestReading> {
  const reader = new Reader();
  let count = 0;
  for await (const document of parseManifest(text)) {
    if (document.error !== '') {
      reader.refuse(document.label, document.error);
      continue;
    }
    for (const leaf of leavesOf(sortObject(document.value), document.label, 0)) {
      reader.take(leaf);
      if (++count % OBJECTS_A_TURN === 0) await nextTurn();
    }
  }
  const { problems, foreign } = reader;
  return { claims: reader.claims.claims, torn: problems.length > 0 || reader.endsBadly, problems, foreign };
}
