/** The answer of a spawn as a stream of events: how far it has come, and in the end the answer. */

const EVENTS = 'text/event-stream';
/** What a caller that watches accepts: a front door of the release before this one answers in JSON. */
export const WATCHING = `${EVENTS}, application/json;q=0.9`;

export function isStream(response) {
  return (response.headers.get('content-type') ?? '').toLowerCase().startsWith(EVENTS);
}

/**
 * Reads the stream to its last event, and returns that one: `ready` or `problem`. `onStage` is called for those before. A stream that
 * ends early is thrown as an error; `onStage` may throw, and ends the call.
 */
export async function lastEvent(response, onStage) {
  const reader = response.body.getReader();
  try {
    for await (const event of eventsOf(reader)) {
      if (event.name === 'ready' || event.name === 'problem') return event;
      if (event.name === 'queued' || event.name === 'starting') onStage({ state: event.name, ...event.data });
    }
  } finally {
    reader.cancel().catch(() => {});
  }
  throw new TypeError('the stream ended before the answer');
}

async function* eventsOf(reader) {
  const decoder = new TextDecoder();
  let text = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += decoder.decode(value, { stream: true });
    const blocks = text.split('\n\n');
    text = blocks.pop();
    for (const block of blocks) {
      const fields = block.split('\n').map((line) => line.split(/: ?(.*)/s, 2));
      const { event, data, retry } = Object.fromEntries(fields);
      if (event && data) yield { name: event, data: JSON.parse(data), retryMs: retry === undefined ? undefined : Number(retry) };
    }
  }
}
