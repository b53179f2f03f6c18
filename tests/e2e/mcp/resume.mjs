// A host whose stream was cut and that comes back in the same session, with the official client of 2025-11-25:
// node resume.mjs URL, the key in HUB_KEY. resume.rs reads the lines.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const require = createRequire(import.meta.url);
const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');

const connect = async (sessionId) => {
  const requestInit = { headers: { authorization: `Bearer ${process.env.HUB_KEY}` } };
  const transport = new StreamableHTTPClientTransport(new URL(process.argv[2]), { requestInit, sessionId });
  const client = new Client({ name: 'host', version: '1' });
  await client.connect(transport);
  return { client, transport };
};
const params = { name: 'call', arguments: { operationId: 'slow.work', input: {} } };

const { client, transport } = await connect();
const resumptionToken = await new Promise((onresumptiontoken) => {
  client.callTool(params, undefined, { onresumptiontoken }).catch(() => {});
});
// It cuts the connections and leaves the session.
await client.close();
console.log('cut');
await new Promise((resolve) => createInterface(process.stdin).once('line', resolve));
const again = await connect(transport.sessionId);
const result = await again.client.callTool(params, undefined, { resumptionToken });
console.log(result.structuredContent.data);
process.exit(0);
