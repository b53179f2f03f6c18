// Tasks as a host has them, with the official client of 2025-11-25: node tasks.mjs URL, the key in HUB_KEY. tasks.rs
// reads the lines.
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');
const { TaskStatusNotificationSchema } = require('@modelcontextprotocol/sdk/types.js');

const transport = new StreamableHTTPClientTransport(new URL(process.argv[2]), {
  requestInit: { headers: { authorization: `Bearer ${process.env.HUB_KEY}` } },
});
const client = new Client({ name: 'host', version: '1' });
const { tasks } = client.experimental;
const told = new Promise((resolve) => {
  client.setNotificationHandler(TaskStatusNotificationSchema, ({ params }) => resolve(params.status));
});

const pause = () => new Promise((resolve) => setTimeout(resolve, 20));
const call = (operationId, input) => ({ name: 'call', arguments: { operationId, input } });

/** Runs a call as a task to its end. */
async function follow(operationId, input, options) {
  for await (const message of tasks.callToolStream(call(operationId, input), undefined, options)) {
    if (message.type === 'error') throw message.error;
    if (message.type === 'taskCreated' && !options) console.log('taskCreated');
    if (message.type === 'result') return message.result.structuredContent;
  }
}

await client.connect(transport);
// It asks for a task by itself, since it has read that the tool can be one.
await client.listTools();
console.log((await follow('slow.work', {})).data);
console.log(await told);
const steps = [];
let { items } = {};
await new Promise((resolve, reject) => {
  const onprogress = ({ progress }) => steps.push(progress) === 3 && resolve();
  follow('demo.count', 3, { onprogress }).then((result) => ({ items } = result), reject);
});
console.log(`progress ${steps}`);
while (!items) await pause();
console.log(`items ${items}`);
for await (const { type, task } of tasks.callToolStream(call('demo.parent', {}))) {
  if (type !== 'taskCreated') continue;
  // Not before its child runs. The task is the call.
  const tree = call('calls.tree', { callId: task.taskId });
  while (!JSON.stringify(await client.callTool(tree)).includes('demo.wait')) await pause();
  console.log((await tasks.cancelTask(task.taskId)).status);
  break;
}
const count = {};
for (const { status } of (await tasks.listTasks()).tasks) count[status] = (count[status] ?? 0) + 1;
console.log(`${count.completed} completed, ${count.cancelled} cancelled`);
await client.close();
process.exit(0);
