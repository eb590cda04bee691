// Node's clients as they are by default: fetch, and http with a body in chunks.
import http from "node:http";

const [url, key, body] = process.argv.slice(2);
const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
const answer = await fetch(url, { method: "POST", headers, body });
console.log(answer.status, await answer.text());
await new Promise((resolve, reject) => {
  const request = http.request(url, { method: "POST", headers }, (response) => {
    let text = "";
    response.on("data", (data) => (text += data));
    response.on("end", () => resolve(console.log(response.statusCode, text)));
  });
  request.on("error", reject);
  request.write(body.slice(0, 20));
  request.end(body.slice(20));
});
