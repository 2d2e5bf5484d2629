// Does what it is told by the official SDK of OpenAI.
import OpenAI, { toFile } from 'openai';
import { all, serve } from './drive.mjs';

async function chunks(stream) {
  const out = { text: '', chunks: 0, usage: null, tools: [] };
  for await (const chunk of stream) {
    out.chunks++;
    if (chunk.usage) out.usage = chunk.usage;
    else {
      const { delta } = chunk.choices[0]; // as every example has it
      out.text += delta.content ?? '';
      for (const t of delta.tool_calls ?? []) {
        out.tools[t.index] ??= { name: '', arguments: '' };
        out.tools[t.index].name += t.function.name ?? '';
        out.tools[t.index].arguments += t.function.arguments ?? '';
      }
    }
  }
  return out;
}

async function events(stream) {
  const out = { text: '', events: [], numbers: [], response: null };
  for await (const e of stream) {
    out.events.push(e.type);
    out.numbers.push(e.sequence_number);
    if (e.type === 'response.output_text.delta') out.text += e.delta;
    if (e.response) out.response = e.response;
  }
  return out;
}

serve({
  chat: (o, c) => o.chat.completions.create(c.params),
  chat_stream: async (o, c) => chunks(await o.chat.completions.create({ ...c.params, stream: true })),
  response: (o, c) => o.responses.create(c.params),
  response_stream: async (o, c) => events(await o.responses.create({ ...c.params, stream: true })),
  response_get: (o, c) => o.responses.retrieve(c.id),
  response_follow: async (o, c) => events(await o.responses.retrieve(c.id, { stream: true, starting_after: c.starting_after })),
  response_cancel: (o, c) => o.responses.cancel(c.id),
  response_delete: (o, c) => o.responses.delete(c.id),
  embed: (o, c) => o.embeddings.create(c.params),
  models: (o) => all(o.models.list(), (m) => m.id),
  model: (o, c) => o.models.retrieve(c.id),
  file: async (o, c) => o.files.create({ file: await toFile(Buffer.from(c.text), 'lines.jsonl'), purpose: 'batch' }),
  file_get: (o, c) => o.files.retrieve(c.id),
  file_list: (o, c) => all(o.files.list({ limit: c.limit }), (f) => f.id),
  file_content: async (o, c) => (await o.files.content(c.id)).text(),
  file_delete: (o, c) => o.files.delete(c.id),
  batch: (o, c) => o.batches.create(c.params),
  batch_get: (o, c) => o.batches.retrieve(c.id),
  batch_list: (o, c) => all(o.batches.list({ limit: c.limit }), (b) => b.id),
  batch_cancel: (o, c) => o.batches.cancel(c.id),
  unwrap: (o, c) => o.webhooks.unwrap(c.text, c.sent, c.secret),
}, (c) => new OpenAI({ baseURL: c.base, apiKey: c.key, maxRetries: c.retries, timeout: c.timeout || undefined, defaultHeaders: c.headers }));
