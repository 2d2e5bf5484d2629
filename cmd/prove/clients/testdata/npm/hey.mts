// The life of a job and of a batch by the client that hey-api makes of the description.
import { client } from './hey/client.gen.js';
import { cancelJob, deleteJob, getBatch, getJob, listJobs, retryJob, submitBatch, submitJob } from './hey/sdk.gen.js';

declare const process: { env: Record<string, string | undefined> };
client.setConfig({ baseUrl: process.env.SLUICE_URL ?? '', auth: process.env.SLUICE_TOKEN, throwOnError: true });

const body = { model: 'claude-sonnet-4-5', prompt: 'hi' };
const { data: made } = await submitJob({ body, throwOnError: true });
const { data: ended } = await getJob({ path: { id: made.id }, query: { wait: 30 }, throwOnError: true });
if (ended.status !== 'succeeded' || !ended.text) throw new Error(`it is ${ended.status}`);
const { data: list } = await listJobs({ throwOnError: true });
if (!list.data.some((job) => job.id === made.id)) throw new Error('it is not in the list');
const { data: waits } = await submitJob({ body: { ...body, not_before: new Date(Date.now() + 3600e3).toISOString() }, throwOnError: true });
const { data: canceled } = await cancelJob({ path: { id: waits.id }, throwOnError: true });
if (canceled.status !== 'canceled') throw new Error(`it is ${canceled.status}`);
await retryJob({ path: { id: waits.id }, throwOnError: true });
await deleteJob({ path: { id: made.id }, throwOnError: true });
const { data: batch } = await submitBatch({ body: { jobs: [body, body] }, throwOnError: true });
const { data: whole } = await getBatch({ path: { id: batch.id }, query: { wait: 30 }, throwOnError: true });
if (whole.status !== 'ended' || whole.counts.succeeded !== 2) throw new Error(`the batch is ${whole.status}`);
console.log('hey-api: submitted, read, listed, canceled, retried and deleted; a batch');
