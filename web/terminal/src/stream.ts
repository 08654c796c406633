/** Output of the shell into an emulator: order, resume, replay and acks. No sockets and no DOM: both are passed in. */

import type { ServerFrame } from "./protocol";

/** What the stream needs of an emulator (xterm.js has it). */
export interface Emulator {
  write(data: Uint8Array | string, done?: () => void): void;
}

/** Parsed bytes after which an ack is sent although more are waiting. */
const ACK_EVERY = 32 * 1024;

export class OutputStream {
  /** The count that offsets belong to; "" before the first WELCOME. */
  epoch = "";
  /** Offset up to which output was received. */
  received = 0;
  /** Offset up to which the emulator has parsed it. */
  parsed = 0;
  /** While true the emulator's answers to old queries must not be sent. */
  replaying = false;
  private acked = 0;
  private welcomed = false;
  /** Counts fresh starts: what was queued for the emulator before one must not be taken for its progress. */
  private generation = 0;
  private replays = 0;

  constructor(
    private readonly emulator: Emulator,
    private readonly sendAck: (parsed: number, received: number) => void,
    /** A replay has been parsed: what is typed from now on is sent. */
    private readonly settled: () => void,
  ) {}

  /** Where to go on after a drop: what was received is in the emulator's queue and will be parsed. */
  position(): { epoch: string; offset: number } {
    return { epoch: this.epoch, offset: this.received };
  }

  /** The connection is gone: no acks until the next WELCOME. */
  disconnected(): void {
    this.welcomed = false;
  }

  /** Takes WELCOME, REPLAY_BEGIN, OUTPUT and REPLAY_END. Returns false on a gap: connect anew then. */
  take(frame: ServerFrame): boolean {
    switch (frame.kind) {
      case "welcome":
        if (frame.epoch !== this.epoch) this.generation += 1;
        this.epoch = frame.epoch;
        this.acked = 0;
        this.welcomed = true;
        return true;
      case "replay-begin":
        this.replays += 1;
        this.replaying = true;
        if (frame.reset) this.fresh(frame.offset, frame.preamble);
        return frame.offset === this.received;
      case "output":
        return this.output(frame.offset, frame.data);
      case "replay-end": {
        const replay = this.replays;
        this.emulator.write("", () => {
          if (replay !== this.replays) return;
          this.replaying = false;
          if (this.welcomed) this.settled();
        });
        return true;
      }
      default:
        return true;
    }
  }

  private fresh(offset: number, preamble: Uint8Array): void {
    this.generation += 1;
    this.received = offset;
    this.write("\x1bc", offset); // RIS by the queue: what is still in it is parsed before
    if (preamble.length > 0) this.write(preamble, offset);
  }

  private output(offset: number, data: Uint8Array): boolean {
    if (offset !== this.received) return false;
    this.received = offset + data.length;
    this.write(data, this.received);
    return true;
  }

  private write(data: Uint8Array | string, end: number): void {
    const generation = this.generation;
    this.emulator.write(data, () => {
      if (generation !== this.generation) return;
      this.parsed = end;
      if (this.welcomed && (end - this.acked >= ACK_EVERY || end === this.received)) {
        this.acked = end;
        this.sendAck(end, this.received);
      }
    });
  }
}
