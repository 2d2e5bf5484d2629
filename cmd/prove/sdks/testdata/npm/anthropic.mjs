// Does what it is told by the official SDK of Anthropic, of the package that is named.
import { all, serve } from './drive.mjs';

const { default: Anthropic } = await import(process.argv[2]);

const page = (c) => ({ limit: c.limit, ...(c.before && { before_id: c.before }), ...(c.after && { after_id: c.after }) });

serve({
  message: (a, c) => a.messages.create(c.params),
  stream: async (a, c) => {
    const stream = a.messages.stream(c.params);
    const events = [];
    stream.on('streamEvent', (e) => events.push(e.type));
    const message = await stream.finalMessage();
    return { message, events };
  },
  count: (a, c) => a.messages.countTokens(c.params),
  models: (a, c) => all(a.models.list({ limit: c.limit }), (m) => m.id),
  model: (a, c) => a.models.retrieve(c.id),
  batch: (a, c) => a.messages.batches.create(c.params),
  batch_beta: (a, c) => a.beta.messages.batches.create(c.params),
  batch_get: (a, c) => a.messages.batches.retrieve(c.id),
  batch_list: (a, c) => all(a.messages.batches.list(page(c)), (b) => b.id),
  batch_page: async (a, c) => {
    const p = await a.messages.batches.list(page(c));
    return { ids: p.data.map((b) => b.id), has_more: p.has_more, first_id: p.first_id, last_id: p.last_id };
  },
  batch_cancel: (a, c) => a.messages.batches.cancel(c.id),
  batch_delete: (a, c) => a.messages.batches.delete(c.id),
  batch_results: (a, c) => all(a.messages.batches.results(c.id)),
}, (c) => new Anthropic({ baseURL: c.base, apiKey: c.key, maxRetries: c.retries, timeout: c.timeout || undefined, defaultHeaders: c.headers }));
