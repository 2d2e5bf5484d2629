// The life of a job by the types that openapi-typescript makes of the description.
import type { components, paths } from './schema.js';

type Submit = components['schemas']['Submit'];
type Job = paths['/v1/jobs/{id}']['get']['responses']['200']['content']['application/json'];
type Jobs = paths['/v1/jobs']['get']['responses']['200']['content']['application/json'];

declare const process: { env: Record<string, string | undefined> };
const url = process.env.SLUICE_URL, headers = { Authorization: 'Bearer ' + process.env.SLUICE_TOKEN, 'Content-Type': 'application/json' };

async function call<T>(method: string, path: string, body?: unknown): Promise<T> {
  const answer = await fetch(url + path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
  return (answer.status === 204 ? undefined : await answer.json()) as T;
}

const body: Submit = { model: 'claude-sonnet-4-5', prompt: 'hi' };
const made = await call<Job>('POST', '/v1/jobs', body);
const ended = await call<Job>('GET', `/v1/jobs/${made.id}?wait=30`);
if (ended.status !== 'succeeded' || !ended.text) throw new Error(`it is ${ended.status}`);
const list = await call<Jobs>('GET', '/v1/jobs');
if (!list.data.some((job) => job.id === made.id)) throw new Error('it is not in the list');
const later: Submit = { ...body, not_before: new Date(Date.now() + 3600e3).toISOString() };
const waits = await call<Job>('POST', '/v1/jobs', later);
await call<Job>('POST', `/v1/jobs/${waits.id}/cancel`);
await call<Job>('POST', `/v1/jobs/${waits.id}/retry`);
await call<void>('DELETE', `/v1/jobs/${made.id}`);
console.log('openapi-typescript: submitted, read, listed, canceled, retried and deleted');
