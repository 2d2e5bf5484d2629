// Drives the official SDK of Anthropic against a Sluice: only the base URL and the key
// are another's. It ends with 1 at the first thing that is not as at Anthropic.
import Anthropic from '@anthropic-ai/sdk';
import assert from 'node:assert/strict';

const [baseURL, apiKey] = process.argv.slice(2);
const client = new Anthropic({ baseURL, apiKey, maxRetries: 1 });
const params = (text) => ({ model: 'claude-x', max_tokens: 20, messages: [{ role: 'user', content: text }] });

const message = await client.messages.create(params('sdk: hello'));
assert.equal(message.type, 'message');
assert.equal(message.role, 'assistant');

assert.ok((await client.messages.countTokens({ model: 'claude-x', messages: [{ role: 'user', content: 'sdk: count' }] })).input_tokens > 0);
const models = [];
for await (const m of client.models.list({ limit: 1 })) models.push(m.id);
assert.deepEqual(models, ['claude-sonnet-4-5']);
assert.equal((await client.models.retrieve(models[0])).type, 'model');

const batches = client.messages.batches;
const batch = await batches.create({
  requests: [
    { custom_id: 'good', params: params('sdk: one') },
    { custom_id: 'unserved', params: { ...params('sdk: two'), model: 'nobody' } },
  ],
});
assert.match(batch.id, /^msgbatch_/);
assert.equal(batch.type, 'message_batch');
let now = batch;
for (const until = Date.now() + 30_000; now.processing_status !== 'ended'; now = await batches.retrieve(batch.id)) {
  assert.equal(now.request_counts.processing, 2);
  assert.equal(now.results_url, null);
  assert.ok(Date.now() < until, 'the batch does not end');
  await new Promise((done) => setTimeout(done, 20));
}
assert.deepEqual(now.request_counts, { processing: 0, succeeded: 1, errored: 1, canceled: 0, expired: 0 });
const results = {};
for await (const line of await batches.results(batch.id)) results[line.custom_id] = line.result;
assert.equal(results.good.type, 'succeeded');
assert.equal(results.good.message.type, 'message');
assert.equal(results.unserved.type, 'errored');
assert.equal(results.unserved.error.error.type, 'not_found_error');

const slow = await batches.create({ requests: [{ custom_id: 'slow', params: params('sdk: [[latency:30s]]') }] });
await assert.rejects(batches.delete(slow.id), (e) => e instanceof Anthropic.BadRequestError);
const canceled = await batches.cancel(slow.id);
assert.equal(canceled.processing_status, 'canceling');
assert.ok(canceled.cancel_initiated_at);

const older = [];
for await (const b of batches.list({ limit: 1 })) older.push(b.id);
assert.deepEqual(older, [slow.id, batch.id]);
const newer = [];
for await (const b of batches.list({ limit: 1, before_id: batch.id })) newer.push(b.id);
assert.deepEqual(newer, [slow.id]);

for (const id of older) assert.deepEqual(await batches.delete(id), { id, type: 'message_batch_deleted' });
await assert.rejects(batches.retrieve(batch.id), (e) => e instanceof Anthropic.NotFoundError && e.error.error.type === 'not_found_error');
const none = await batches.list();
assert.equal(none.has_more, false);
assert.equal(none.data.length, 0);
