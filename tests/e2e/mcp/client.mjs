// What an agent host does, with the official clients: node client.mjs URL sdk|client [own], the key in HUB_KEY; with
// `own` it calls each tool that is an operation of its own.
// `sdk` is their first generation (sessions, 2025-11-25), `client` the second (2026-07-28). clients.rs reads the lines.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

// Unlike `import` it looks at NODE_PATH.
const require = createRequire(import.meta.url);
const [url, generation, own] = process.argv.slice(2);
const first = generation === 'sdk';
const { Client } = require(first ? '@modelcontextprotocol/sdk/client/index.js' : '@modelcontextprotocol/client');
const { StreamableHTTPClientTransport } = require(
  first ? '@modelcontextprotocol/sdk/client/streamableHttp.js' : '@modelcontextprotocol/client',
);
const say = (what) => console.log(JSON.stringify(what));
const transport = new StreamableHTTPClientTransport(new URL(url), {
  requestInit: { headers: { authorization: `Bearer ${process.env.HUB_KEY}` } },
});
const client = new Client({ name: 'host', version: '1' }, first ? {} : { versionNegotiation: { mode: 'auto' } });
const call = (operationId, input, options) => {
  const params = { name: 'call', arguments: { operationId, input } };
  return first ? client.callTool(params, undefined, options) : client.callTool(params, options);
};

await client.connect(transport);
say({ version: first ? transport.protocolVersion : client.getNegotiatedProtocolVersion() });
const tools = (await client.listTools()).tools.map((tool) => tool.name).sort();
if (own) {
  for (const name of tools.filter((name) => !['call', 'list', 'schema', 'search'].includes(name))) {
    const answer = await client.callTool({ name, arguments: {} }).catch((error) => ({ raised: String(error) }));
    const { raised, isError = false, structuredContent } = answer;
    say({ name, ...(raised ? { raised } : { isError, structuredContent }) });
  }
  process.exit(0);
}
say({ tools });
say((await call('demo.add', [1, 2])).structuredContent.data);
const streamed = await call('steps.count', 3, { onprogress: (progress) => say({ progress: progress.progress }) });
say(streamed.structuredContent.items);
const controller = new AbortController();
createInterface(process.stdin).once('line', () => controller.abort('enough'));
await call('demo.parent', {}, { signal: controller.signal }).catch(() => say('cancelled'));
say((await call('demo.add', [3, 4])).structuredContent.data);
await client.close();
process.exit(0);
