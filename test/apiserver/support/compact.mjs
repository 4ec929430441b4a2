// Makes etcd forget its history up to now: node compact.mjs http://127.0.0.1:PORT. Through etcd's HTTP gateway, /v3/kv.
const [url] = process.argv.slice(2);

async function post(at, body) {
  const answer = await fetch(`${url}/v3/kv/${at}`, { method: 'POST', body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${at}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

// A revision that is compacted stays readable itself: whoever reads at the newest one must find it gone, too.
const { header } = await post('put', { key: btoa('/test/compacted'), value: btoa('1') });
await post('compaction', { revision: header.revision, physical: true });
