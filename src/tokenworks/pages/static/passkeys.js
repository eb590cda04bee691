// Passkeys (W3C Web Authentication): a form with `data-passkey` asks the device before it is sent. Without this script, or on a device
// without passkeys, the form stays hidden, and a code is the way in.
(() => {
  "use strict";
  const bytes = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (char) => char.charCodeAt(0));
  const text = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  const named = (list) => list.map((one) => ({ ...one, id: bytes(one.id) }));

  async function options(form) {
    const answer = await fetch(form.dataset.options, { method: "POST", headers: { accept: "application/json" } });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    return answer.json();
  }

  async function create(found) {
    const made = await navigator.credentials.create({ publicKey: {
      ...found, challenge: bytes(found.challenge), user: { ...found.user, id: bytes(found.user.id) },
      excludeCredentials: named(found.excludeCredentials),
    } });
    const { clientDataJSON, attestationObject } = made.response;
    return { response: {
      clientDataJSON: text(clientDataJSON), attestationObject: text(attestationObject), transports: made.response.getTransports?.() ?? [],
    } };
  }

  async function get(found) {
    const used = await navigator.credentials.get({ publicKey: {
      ...found, challenge: bytes(found.challenge), allowCredentials: named(found.allowCredentials),
    } });
    const { clientDataJSON, authenticatorData, signature, userHandle } = used.response;
    return { id: text(used.rawId), response: {
      clientDataJSON: text(clientDataJSON), authenticatorData: text(authenticatorData), signature: text(signature),
      userHandle: userHandle === null ? null : text(userHandle),
    } };
  }

  async function send(form) {
    const problem = form.querySelector("[role=alert]"), button = form.querySelector("button");
    problem.textContent = "";
    button.disabled = true;
    try {
      const found = await options(form);
      const credential = await (form.dataset.passkey === "create" ? create : get)(found);
      form.elements.credential.value = JSON.stringify(credential);
      form.submit();
    } catch {
      // The person said no, the device has none, or the network is away: the device itself has said which.
      problem.textContent = form.dataset.failed;
      button.disabled = false;
    }
  }

  if (!window.PublicKeyCredential || !navigator.credentials) return;
  for (const form of document.querySelectorAll("form[data-passkey]")) {
    form.hidden = false;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      send(form);
    });
  }
  // A page that the browser kept, to which a person goes back, has its buttons again.
  addEventListener("pageshow", () => {
    for (const button of document.querySelectorAll("form[data-passkey] button")) button.disabled = false;
  });
})();
