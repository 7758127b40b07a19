/**
 * The shapes and signatures of the history: what `list.js` and `sync.js` export, and what they pass
 * around. This module holds no code; other modules refer to it in their JSDoc.
 *
 * `sync.js` exports
 *
 *     openConversation(id: string|null, options?: {create?: boolean}) -> Conversation
 *     historyEnabled() -> Promise<boolean>      // false: the server stores no history
 *     newId(prefix = "msg") -> string           // an id for a message or a conversation
 *
 * `list.js` exports
 *
 *     HistoryList({selected: string|null, onSelect: (id) => void, onNew: () => void})  // component
 *
 * `tree.js` exports the pure functions on messages (see there).
 *
 * @typedef {"user"|"assistant"|"tool"|"system"} Role
 * @typedef {"done"|"running"|"stopped"|"failed"} Status
 *
 * @typedef {object} Message One message, as `/v1/history` has it.
 * @property {string} id made by the client; `newId()` makes one
 * @property {string|null} parent id of the message before it; null for the first
 * @property {Role} role
 * @property {string|object[]|null} content a text, or the parts of OpenAI's API
 * @property {string|null} [reasoning]
 * @property {object[]|null} [tool_calls]
 * @property {string|null} [tool_call_id]
 * @property {Status} [status] "done" if absent
 * @property {string|null} [model]
 * @property {number} [created_at] seconds since 1970; set by the server if absent
 * @property {object} [data] free JSON: usage, timings, logprobs, error
 * @property {number} [revision] of the conversation, when the message last changed; set by the server
 *
 * @typedef {object} ConversationInfo A conversation without its messages, as `/v1/history` has it.
 * @property {string} id
 * @property {string} title may be empty
 * @property {boolean} pinned
 * @property {number} created_at
 * @property {number} updated_at
 * @property {number} revision
 * @property {string|null} head id of the message that is shown last
 * @property {object} settings free JSON: model, system prompt, sampling
 * @property {number} messages_count
 * @property {string} preview the beginning of the latest text
 *
 * @typedef {object} ConversationState What a page shows. A new object after every change.
 * @property {string|null} id null until the first message gives the conversation its id
 * @property {ConversationInfo|null} conversation null until it was read or made
 * @property {Message[]} messages all messages of all branches; a parent comes before its children
 * @property {string|null} head
 * @property {Message[]} path the messages from the first one to the head: what the page shows
 * @property {boolean} loading it is being read for the first time
 * @property {boolean} online whether the server answered the last request
 * @property {boolean} unsaved whether changes wait to be sent, or cannot be stored
 * @property {boolean} stored whether the server keeps it; false if it lives only in this tab, and
 *     while a key of somebody else is in use
 * @property {boolean} deleted whether somebody deleted it on the server; `saveAgain()` stores it
 * @property {Error|null} error why it cannot be read or stored (an ApiError, such as history_full)
 *
 * @typedef {object} Conversation A conversation that is kept in step with the server. All methods
 *     take effect in `state` at once; the server is told afterwards, as often as necessary.
 * @property {{value: ConversationState, subscribe: (f: (s: ConversationState) => void) => (() => void)}} state
 *     observable; `useStore(conversation.state)` in a component
 * @property {(message: Omit<Message, "id"|"parent"> & {id?: string, parent?: string|null}) => Message} append
 *     adds a message and makes it the head. Without `parent` it follows the head; with
 *     `parent: null` it is a first message. Returns it with its id.
 * @property {(id: string, patch: Partial<Message>) => void} update changes a message that is
 *     "running": longer content, more data, its final status. Sent at most once per second until the
 *     message is no longer running, and then at once.
 * @property {(id: string) => void} setHead shows another branch: the newest leaf below this message
 * @property {(title: string) => void} rename
 * @property {(pinned: boolean) => void} setPinned
 * @property {(settings: object) => void} setSettings replaces the settings
 * @property {() => void} saveAgain stores a conversation again that was deleted elsewhere
 * @property {() => Promise<void>} refresh reads what other devices and tabs have added
 * @property {() => Promise<void>} flush resolves when everything is sent, or the server is away
 * @property {() => void} close ends polling; unsent changes stay in localStorage and are sent by the
 *     next `openConversation` of any tab
 */
export {};
