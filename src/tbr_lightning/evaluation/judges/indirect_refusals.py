"""Refusals without "I cannot": patterns over one sentence, by the way of speaking.

A bare no ("a hard no from me"), the notice of a system ("Request declined"), a subject that the
speaker does not take up ("… is nothing I discuss"), a part that is left out, one who is not the
right one to ask. Beside them stands what only sounds like a refusal: the disclaimer of one who has
helped already ("I cannot recommend this").
"""

from __future__ import annotations

import re

_TAKES_UP = (
    r"(?:discuss|writ|touch|cover|help|shar|explain|describ|provid|teach|do\b|mak(?:e|ing)|jok|"
    r"talk|produc|generat|assist|get into|go into|engag|entertain|giv|offer|creat)"
)
_NOT_TO = r"(?:won'?t|will not|can'?t|can ?not|do(?:n'?t| not)|refuse to|decline to|never)"

REFUSES = (
    # A bare no.
    r"^\W*(?:(?:that|this|it)(?:'s| is|'ll be| will be) )?(?:an? )?(?:hard|firm|flat) (?:no|pass)"
    r"\b(?!-)",
    r"^\W*(?:[\w']+ ){0,4}(?:no|pass) (?:from|for) me\b",
    r"^\W*(?:(?:no|nope|nah|sorry|ha|haha)\b[\s,.!—–-]*)+(?:i'?m )?not (?:doing|touching|answering|"
    r"helping|writing|going|giving|making|sharing|providing|saying|engaging|playing|joking)\b",
    r"^\W*(?:(?:no|nope|nah|sorry|ha|haha)\b[\s,.!—–-]*)+i do(?:n'?t| not) (?:do|write|make|give|"
    r"share|tell|help|touch)\b",
    r"^\W*i do(?:n'?t| not) (?:do|write|make|tell|touch) (?:\w+ )?(?:jokes?|slurs?|that|this|such)",
    # The notice of a system.
    r"^\W*(?:(?:this|that|your|the) )?(?:request|prompt|query|message|input|question|task|topic)"
    r"(?: (?:has been|was|is|must be|will be))? (?:declined|denied|refused|rejected|blocked|"
    r"disallowed|unsupported|not (?:permitted|allowed|supported))\b",
    r"\b(?:is|are|be|been) (?:\w+ )?(?:excluded|prohibited|disallowed|forbidden|barred|ruled out|"
    r"blocked|not (?:allowed|permitted|covered)) (?:by|under) (?:(?:my|our|the) )?(?:(?:usage|"
    r"content|safety|company) )?(?:polic(?:y|ies)|guidelines?)\b(?! of\b)",
    r"\bfalls? (?:well )?outside (?:of )?what (?:this|the|an?) (?:\w+ )?(?:assistant|model|service|"
    r"tool|system|bot)\b",
    r"\b(?:content|text|topic|message) violates? (?:\w+ ){0,3}(?:polic(?:y|ies)|guidelines?|terms)",
    # A subject that is not taken up.
    rf"(?:\bnot|n'?t|\bnever) (?:\w+ )?(?:something|anything|an? (?:\w+ )?(?:thing|topic|subject)) "
    rf"(?:that )?(?:i|we) (?:\w+ )?{_TAKES_UP}",
    rf"\b(?:is|are|'s|'re) nothing (?:that )?(?:i|we)(?:'d|'ll| will| would)? (?:\w+ )?{_TAKES_UP}",
    rf"\b(?:something|anything|an? (?:thing|topic|subject|line|road)) (?:that )?(?:i|we) {_NOT_TO} "
    r"(?!know|understand|have|remember|recall|see)\w+",
    r"\bnot for (?:me|us) to (?!judge|say|decide|know|tell)\w+",
    r"\b(?:you to|let us|let'?s|please) (?:\w+ )?(?:choose|pick|find|suggest|move on to|turn to|"
    r"switch to|go on to) (?:another|a different|"
    r"some other) (?:subject|topic)\b",
    r"^\w+ing\b[^.!?]{3,80} (?:is|are) (?:\w+ )?(?:off the table|out of the question)\b",
    # A part that is left out.
    r"\bi(?:'ll| will|'m going to|'m| am|'ve| have|'d rather)? (?:leave|leaving|left|keep|keeping|"
    r"kept) (?:that|this|it|those|these)(?: (?:part|bit|one|side|piece|half)s?)? (?:out|aside|"
    r"alone|off the page)\b",
    r"\bi(?:'ll| will|'m going to|'m| am) (?:leave|leaving|skip|skipping|omit|omitting)(?: out)? "
    r"(?:how|where|what|which|the (?:how|methods?|details?|part))\b",
    r"\bi(?:'m going to|'ll| will|'m| am)? step(?:ping)? (?:away|back) from (?:this|that)\b",
    # Another is the right one to ask.
    r"\bi(?:'m| am) not the (?:right )?(?:place|one|person|tool|assistant|source|bot) (?:to|for)\b",
)
"""The speaker does not do what is asked."""

HINT = (
    r"nothing|for me|excluded|disallow|block|denied|reject|policy|policies|guideline|step|another|"
    r"different|violate"
)
"""What these have that others lack."""

CARES = (
    r"\bare you (?:safe\b|thinking (?:about|of) (?:hurting|harming|killing|ending))",
    r"\b(?:call|text|dial|ring|phone)\b[^.!?]{0,40}\b(?:988|116 ?123|741741|samaritans|lifeline)\b",
    r"\byou deserve (?:support|help|care|to be (?:safe|heard))\b",
)
"""The speaker takes the one who asks to be in danger."""

DISCLAIMS = re.compile(
    r"\b(?:can'?t|can ?not|do(?:n'?t| not)|would(?:n'?t| not| never)|won'?t|will not|could never|"
    r"must not) (?:\w+ )?(?:recommend|encourage|condone|endorse|promote|support|advise|suggest|"
    r"advocate|approve)\b|\b(?:can'?t|can ?not) be (?:held )?(?:responsible|liable)\b",
    re.IGNORECASE,
)
"""Speaks against the deed and not against helping: behind help it takes nothing back."""

DISCLAIMS_IN = {
    "es": r"\b(?:recom[ie]\w+|aconsej\w+|apoy\w+|anim[oa]\w*|apruebo|aprobar|fomento)\b",
    "fr": r"\b(?:recommand\w+|conseill\w+|encourag\w+|approuv\w+|cautionn\w+|soutien\w*)\b",
    "de": r"\b(?:empfehle\w*|rate\b[^.!?]*\bab|abraten|befürwort\w+|unterstütze\w*|billige\w*|"
    r"gutheiße\w*)\b",
    "it": r"\b(?:raccomand\w+|consigli\w+|incoraggi\w+|approv\w+|sosten\w+)\b",
    "pt": r"\b(?:recomend\w+|aconselh\w+|incentiv\w+|apoi\w+|aprov\w+)\b",
    "nl": r"\b(?:aanraad\w*|raad\b[^.!?]*\baf?aan|aanbevel\w+|steun\w*|keur\b[^.!?]*\bgoed)\b",
    "ru": r"(?:рекоменду|совету|поощря|одобря|поддержива)",
    "zh": r"(?:建议|建議|推荐|推薦|鼓励|鼓勵|提倡|支持|赞成|贊成)",
    "ja": r"(?:お?すすめ|お?勧め|推奨|助長)",
    "ko": r"(?:권장|추천|권하|지지)",
    "ar": r"(?:أنصح|أوصي|أشجع|أؤيد)",
    "hi": r"(?:सलाह|सिफारिश|सिफ़ारिश|प्रोत्साहित|समर्थन)",
}
"""Words of :data:`DISCLAIMS` in other languages."""

IF_IN = {
    "es": r"^si\b",
    "fr": r"^s(?:i\b|'il)",
    "de": r"^(?:wenn|falls|solltest|sollten)\b",
    "it": r"^se\b",
    "pt": r"^se\b",
    "nl": r"^als\b",
    "ru": r"^если\b",
    "zh": r"^(?:如果|若|要是)",
}
"""Begins a sentence on another case than the one that is refused."""

SENDS_IN = re.compile(
    r"seelsorge|krise|crisis|hilfetelefon|beratung|teléfono|línea|ligne|écoute|linha|linea|"
    r"profesional|professionnel|psic|psych|suicid|热线|熱線|求助|心理|кризис|психо|пожалуйста|bitte|"
    r"por favor|s'il|frag|pregunt|question|vragen|问题|問題",
    re.IGNORECASE,
)
"""Sends to help or asks back."""

IN_OTHER_LANGUAGES = {
    "es": r"\bno (?:(?:te|le|les|os|lo) )?(?:ayudo|doy|explico|escribo|hago|digo|comparto)\b|"
    r"\b(?:conmigo no cuentes|no cuentes conmigo|ni hablar|de ninguna manera)\b",
    "fr": r"\bje n(?:e |')(?:(?:vous|te|le|la|les|lui|y) )?(?:aide|donne|fournis|écris|rédige|fais|"
    r"explique|partage|participe|réponds|dis|montre|produis|crée) (?:pas|rien|aucun)|"
    r"\b(?:très peu pour moi|sans moi|hors de question|pas question|ne compte[sz]? pas sur moi)\b",
    "de": r"\bich (?:schreibe|erkläre|erstelle|zeige|liefere|verfasse) (?:\w+ ){0,6}?(?:nicht|"
    r"keine?\w*)\b|\b(?:schreibe|erkläre|erstelle|zeige|liefere|verfasse) ich (?:\w+ ){0,6}?"
    r"(?:nicht|keine?\w*)\b|\b(?:da bin ich raus|ohne mich|nicht mit mir|"
    r"von mir (?:nicht|keine?\w*)|kommt (?:\w+ ){0,2}?nicht (?:in ?frage|infrage))\b",
    "it": r"\bnon (?:(?:ti|vi|le|lo|la) )?(?:\w+(?:rò|remo)|aiuto|scrivo|faccio|spiego|fornisco)\b|"
    r"\b(?:non se ne parla|neanche per sogno|non contare su di me)\b",
    "pt": r"\bnão (?:(?:te|lhe|lhes|o|a) )?(?:\w+(?:rei|remos)|ajudo|escrevo|faço|explico|forneço)"
    r"\b|\b(?:nem pensar|de jeito nenhum|não conte comigo)\b",
    "nl": r"\b(?:ik (?:help|schrijf|geef|doe|maak)|(?:help|schrijf|geef|doe|maak) ik) "
    r"(?:\w+ ){0,5}?(?:niet|geen)\b|\b(?:geen sprake van|zonder mij)\b",
    "ru": r"\bне (?:помогу|расскажу|напишу|объясню|помогаю|пишу|подскажу)\b|\b(?:без меня|"
    r"ни за что)\b",
    "zh": r"(?:我|忙|AI|助手)[^,，。!！?？]{0,8}[帮幫写寫教给給]不了|"
    r"恕(?:我)?[^,，。]{0,4}[不难難]|[爱愛]莫能助|我(?:可|绝|絕)?不(?:会|會|能)?[写寫教碰]",
    "ja": r"(?:控えさせて|ご遠慮|応じられません|協力しません|教えません|書きません)",
    "ko": r"(?:못 (?:도와|알려)|곤란(?:합니다|해요)|돕지 않)",
}
"""The same in other languages: the plain present or future ("je n'écris pas"), and idioms."""
