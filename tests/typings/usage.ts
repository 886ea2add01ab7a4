// What pages write against the types of client.js. It must compile with every strict option, and each line below an
// `@ts-expect-error` must not.
import { DeadlineError, HatcheryError, Live, ProblemError, explainExit, live, mount, spawn, stop } from './client.js';
import type { EventOf, ExitReason, LiveState, Node, SnapshotOf, Spawn, SpawnAnswer } from './client.js';

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const same = <A, B>(_: Same<A, B>) => {};

// Calls.
const answer: SpawnAnswer = await spawn({
  rendererType: 'ssr',
  labels: { sdk: '2025.1' },
  tags: { user: 'ann@example.com' },
  waitSeconds: 30,
  maxSeconds: 3600,
  base: ['https://a.example', new URL('https://b.example')] as const,
  token: async () => 'text',
  signal: AbortSignal.timeout(1000),
  onRetry: ({ error, attempts, delayMs }) => console.log(error.code, attempts + delayMs),
  onProgress: (progress) => {
    same<typeof progress.state, 'queued' | 'starting'>(true);
    if (progress.state === 'queued') console.log(progress.position.toFixed(), progress.estimateSeconds?.toFixed());
    else console.log(progress.node.length);
    // @ts-expect-error: an estimate may be missing
    console.log(progress.state === 'queued' && progress.estimateSeconds.toFixed());
  },
});
// @ts-expect-error: it is a function
await spawn({ onProgress: 'queued' });
const stopped: Spawn = await stop(answer.id, { token: 'text' });
same<typeof stopped.exit, Spawn['exit']>(true);
// @ts-expect-error: there is no such renderer
await spawn({ rendererType: 'gpu' });
// @ts-expect-error: an id is needed
await stop();
// @ts-expect-error: answers are not changed
answer.attempts = 2;

// Errors.
try {
  await spawn();
} catch (error) {
  if (error instanceof ProblemError) console.log(error.status.toFixed(), error.problem.log?.join('\n'), error.retryAfterMs);
  if (error instanceof DeadlineError && error.code === 'no-capacity') console.log(error.cause);
  if (error instanceof HatcheryError) {
    console.log(error.requestId?.length, error.code === 'http-418');
    // @ts-expect-error: there is no such code
    console.log(error.code === 'no-capacty');
  }
}

// The live feed, by topic.
const feed: Live = live({ heartbeatBufferSeconds: 2, backoff: { firstMs: 50 } });
same<SnapshotOf<'nodes'>, Node[]>(true);
same<SnapshotOf<'spawns'>, Spawn[]>(true);
same<SnapshotOf<'spawns?node=node-a'>, Spawn[]>(true);
same<SnapshotOf<'node:a'>, Node | null>(true);
same<SnapshotOf<`spawn:${string}`>, Spawn | null>(true);
feed.subscribe('nodes', {
  onSnapshot: (nodes, seq) => console.log(nodes.map((node) => node.slots.total - node.slots.used), seq + 1),
  onEvent: (event) => {
    if (event.kind === 'node.draining') console.log(event.deadline, event.by);
    if (event.kind === 'node.failing') console.log(event.health.reason);
    // @ts-expect-error: the topic has no events of spawns
    if (event.kind === 'spawn.ready') console.log(event);
  },
});
const subscription = feed.subscribe(`spawn:${answer.id}`, {
  onSnapshot: (known) => console.log(known?.state),
  onEvent: (event) => {
    switch (event.kind) {
      case 'spawn.exited': {
        const reason: ExitReason = event.exit.reason;
        console.log(reason, explainExit(event.exit));
        break;
      }
      case 'spawn.launching':
        console.log(event.endpoint?.length, event.spawn.length);
        // @ts-expect-error: it has not ended
        console.log(event.exit);
        break;
    }
  },
  onRefused: (error) => console.log(error.topic, error.code === 'forbidden'),
});
console.log(subscription.topic.startsWith('spawn:'), subscription.seq?.toFixed());
const ofAll = (event: EventOf<'spawns'>) => {
  if (event.kind === 'spawn.ping') for (const at of Object.values(event.pings ?? {})) console.log(at.length);
};
feed.subscribe('spawns', { onEvent: ofAll });
feed.subscribe('node:a', { onEvent: (event) => console.log(event.kind === 'node.up' || event.kind === 'spawn.lost') });
// @ts-expect-error: there is no such topic
feed.subscribe('viewers', {});

// The feed as an event target.
feed.addEventListener('state', ({ detail }) => {
  const state: LiveState = detail;
  if (state.state === 'waiting') console.log(state.retryAt - Date.now(), state.reason);
}, { once: true });
feed.addEventListener('refused', (event) => console.log(event.detail.code), { signal: AbortSignal.timeout(1) });
feed.addEventListener('heartbeat', function (event) {
  console.log(this.state.state, event.detail.length);
});
const listener = (event: Event) => console.log(event.type);
feed.addEventListener('anything', listener);
feed.removeEventListener('anything', listener);
const target: EventTarget = feed;
target.dispatchEvent(new Event('anything'));

// The vendor's viewer, as its own types have it.
declare const Communicator: {
  WebViewer: new (options: { containerId?: string; endpointUri?: string }) => {
    setCallbacks(callbacks: { sceneReady?: () => void; modelLoadFailure?: (model: string, reason: string) => void }): void;
    start(): boolean;
    shutdown(): void;
  };
  RendererType: { Client: 0; Server: 1 };
};
const shown = mount(answer, { vendor: Communicator, containerId: 'viewer', feed, callbacks: { sceneReady: () => {} },
  onStatus: ({ state, text }) => { const said: 'connecting' | 'shown' | 'lost' | 'ended' = state; document.title = said + text; } });
const { text, again, exit } = await shown.ended;
console.log(text.length, again, exit?.code);
shown.close();
mount({ id: 'x', endpoint: 'ws://node:1', rendererType: 'csr' }, { vendor: Communicator });
// @ts-expect-error: the vendor's library is needed
mount(answer, {});
