// Takes webhooks as GitHub sends them, and only those that know the secret.

import { createHmac, timingSafeEqual } from 'node:crypto';

export const handler = async (event) => {
  const headers = event.headers ?? {};
  const body = Buffer.from(event.body ?? '', event.isBase64Encoded ? 'base64' : 'utf8');
  if (!signedBySender(body, headers['x-hub-signature-256'])) {
    return answer(401, { error: 'the signature in X-Hub-Signature-256 does not fit the body' });
  }
  let payload;
  try {
    payload = JSON.parse(body.toString());
  } catch {
    return answer(400, { error: 'the body is not JSON' });
  }
  const kind = headers['x-github-event'] ?? 'unknown';
  console.log(`${kind} from ${payload.repository?.full_name ?? 'nowhere'}`);
  return answer(200, { accepted: kind, repository: payload.repository?.full_name ?? null });
};

function signedBySender(body, signature = '') {
  const secret = process.env.WEBHOOK_SECRET;
  if (!secret) throw new Error('WEBHOOK_SECRET is not set: add it to env in dayfly.yaml');
  const expected = Buffer.from('sha256=' + createHmac('sha256', secret).update(body).digest('hex'));
  const given = Buffer.from(signature);
  // Comparing in constant time, so that no answer's delay gives the signature away.
  return given.length === expected.length && timingSafeEqual(given, expected);
}

const answer = (statusCode, value) => ({
  statusCode,
  headers: { 'content-type': 'application/json' },
  body: JSON.stringify(value),
});
