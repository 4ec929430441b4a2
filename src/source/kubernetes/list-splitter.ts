/**
 * Bytes of a list (kind: ...List) -> its items, one by one, as they arrive: a server that ignores `limit`
 * answers with all slices of the cluster at once, and neither the text nor the objects of 100 MB should
 * ever be in memory together.
 */
const QUOTE = 34;
const COMMA = 44;
const OPEN_LIST = 91;
const BACKSLASH = 92;
const CLOSE_LIST = 93;
const OPEN = 123;
const CLOSE = 125;
const ENVELOPE_BYTES_MAX = 1024 * 1024;
const ITEMS = Buffer.from('"items"');

function isSpace(byte: number): boolean {
  return byte === 32 || byte === 10 || byte === 13 || byte === 9;
}

export class ListSplitter {
  readonly #itemBytesMax: number;
  /** The item or the piece of envelope that is being collected. */
  #parts: Buffer[] = [];
  #partBytes = 0;
  #envelope: Buffer[] = [];
  #envelopeBytes = 0;
  #depth = 0;
  #inString = false;
  #escaped = false;
  #inItems = false;
  /** The last string at depth 1, for as far as it may still be "items". */
  #key: number[] = [];
  #started = false;

  constructor(itemBytesMax: number) {
    this.#itemBytesMax = itemBytesMax;
  }

  /** The items that this chunk completes, parsed. Throws when it is not a JSON list or an item is too large. */
  *feed(chunk: Buffer): Generator<unknown> {
    let start = 0;
    for (let at = 0; at < chunk.length; at++) {
      const byte = chunk[at]!;
      if (this.#inString) {
        this.#stringByte(byte);
        continue;
      }
      if (byte === QUOTE) {
        this.#inString = true;
        if (this.#depth === 1) this.#key = [QUOTE];
        this.#refuseLoose(byte);
        continue;
      }
      if (byte === OPEN || byte === OPEN_LIST) {
        this.#refuseLoose(byte);
        if (this.#inItems && this.#depth === 2) start = at;
        if (this.#opensItems(byte)) {
          this.#keepEnvelope(chunk.subarray(start, at + 1));
          start = at + 1;
          this.#inItems = true;
        }
        this.#depth++;
      } else if (byte === CLOSE || byte === CLOSE_LIST) {
        this.#depth--;
        if (this.#inItems && this.#depth === 2) {
          yield this.#takeItem(chunk.subarray(start, at + 1));
          start = at + 1;
        } else if (this.#inItems && this.#depth === 1) {
          this.#inItems = false;
          start = at;
        }
      } else this.#refuseLoose(byte);
    }
    this.#keepRest(chunk, start);
  }

  /** What surrounds the items, with an empty list in their place. Throws when the text has not ended. */
  end(): unknown {
    if (!this.#started || this.#depth !== 0) throw new Error('the list was cut off');
    return JSON.parse(Buffer.concat(this.#envelope).toString());
  }

  #opensItems(byte: number): boolean {
    return byte === OPEN_LIST && this.#depth === 1 && ITEMS.equals(Buffer.from(this.#key));
  }

  #stringByte(byte: number): void {
    if (this.#depth === 1 && this.#key.length < 8) this.#key.push(byte);
    if (this.#escaped) this.#escaped = false;
    else if (byte === BACKSLASH) this.#escaped = true;
    else if (byte === QUOTE) this.#inString = false;
  }

  /** Outside of everything only one object may stand, and between items only commas. */
  #refuseLoose(byte: number): void {
    if (this.#depth === 0 && !isSpace(byte)) {
      if (this.#started || byte !== OPEN) throw new Error('the answer is no JSON object');
      this.#started = true;
    }
    if (this.#inItems && this.#depth === 2 && byte !== OPEN && byte !== COMMA && !isSpace(byte)) {
      throw new Error('the list holds something else than objects');
    }
  }

  #takeItem(last: Buffer): unknown {
    const bytes = this.#parts.length === 0 ? last : Buffer.concat([...this.#parts, last]);
    this.#parts = [];
    this.#partBytes = 0;
    if (bytes.length > this.#itemBytesMax) this.#refuseSize();
    return JSON.parse(bytes.toString());
  }

  #keepRest(chunk: Buffer, start: number): void {
    if (!this.#inItems) this.#keepEnvelope(chunk.subarray(start));
    else if (this.#depth > 2) {
      this.#parts.push(chunk.subarray(start));
      this.#partBytes += chunk.length - start;
      if (this.#partBytes > this.#itemBytesMax) this.#refuseSize();
    }
  }

  #refuseSize(): never {
    throw new Error(`an object in the list has more than ${this.#itemBytesMax} bytes`);
  }

  #keepEnvelope(part: Buffer): void {
    this.#envelopeBytes += part.length;
    if (this.#envelopeBytes > ENVELOPE_BYTES_MAX) throw new Error('the answer is no list');
    this.#envelope.push(part);
  }
}
