# SPDX-License-Identifier: Apache-2.0
"""How German, French, Spanish, Italian and Portuguese queries say that a sound is to be left out.

Models that are taught words of these languages take "kein Regen" for rain, as they take "no rain". Decisions: one
table of words for each language, from which the forms of whole queries are built, in the order in which they are
tried. Words that are English as well count only before an article. What a language says of a sound itself stays as it
is: a French "pas" is also a footstep. "Nimm den Hund heraus" asks for the dog, as "take out the dog" does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


END = r"(?: |(?<='))"  # of a word: "ohne Regen", "pas d'oiseaux", but no "sintetizador"


@dataclass(frozen=True)
class Negation:
    """Words of one language, each a pattern without a group.

    Attributes:
        everything: the whole recording.
        but: what comes between it and the sound that is left out.
        remove: what comes before the sound that is to be removed.
        gone: what comes after it, None if the language has no such words.
        no: what comes before a sound that is not wanted.
        and_not: what comes between a sound that is wanted and one that is not.
        sound: words before a sound that are no part of it.
    """

    everything: str
    but: str
    remove: str
    gone: str | None
    no: str
    and_not: str
    sound: str

    def forms(self) -> list[tuple[str, str]]:
        """Patterns of whole queries with the sound as x, and whether x is kept or left out."""
        x = rf"(?:{self.sound})?(?P<x>.+?)"
        but = rf",? (?:{self.but}){END}"
        forms = [
            (rf"(?:{self.remove}) (?:{self.everything}){but}{x}", "keep"),
            (rf"(?:{self.everything}){but}{x}", "leave out"),
            (rf"(?:{self.remove}) {x}", "leave out"),
            (rf"(?:{self.no}){END}{x}", "leave out"),
        ]
        if self.gone is None:
            return forms
        return [
            (rf"(?:{self.everything}) (?:{self.gone}){but}{x}", "keep"),
            (rf"(?:{self.everything}){but}{x} (?:{self.gone})", "keep"),
            *forms[:1],
            (rf"(?:{self.remove}) {x} (?:{self.gone})", "leave out"),
            (rf"{x} (?:{self.gone})", "leave out"),
            *forms[1:],
        ]

    def both(self) -> str:
        """Pattern of a query for one sound without another, x."""
        return rf"(?P<wanted>.+?),? (?:{self.and_not}){END}(?:{self.sound})?(?P<x>.+)"


GERMAN = Negation(
    everything=r"(?:bitte )?(?:nur )?(?:alles(?: andere)?|(?:alle|die)(?: anderen)? (?:geräusche|töne|klänge)|"
    r"die (?:ganze|gesamte) aufnahme|der rest|den rest)",
    but=r"außer|ausser|bis auf|ohne|abgesehen von|ausgenommen|nur nicht|aber nicht|nicht aber|"
    r"mit ausnahme (?:von|des|der)",
    remove=r"(?:bitte )?(?:entferne?|lösche?|unterdrücke?|beseitige|ignoriere|dämpfe|reduziere|verringere|filtere)",
    gone=r"(?:bitte )?(?:entfernen|löschen|unterdrücken|beseitigen|wegmachen|herausfiltern|rausfiltern|ausblenden|"
    r"stummschalten|weglassen|reduzieren|(?<!dem )(?<!den )(?<!am )(?<!ein )weg|"
    r"(?:soll|muss|sollen|müssen) weg)",
    no=r"(?:bitte )?(?:keine?[nrms]?|nicht|ohne|weder)",
    and_not=r"ohne|aber ohne|aber keine?[nrms]?|aber nicht|und keine?[nrms]?|und nicht|nicht aber|außer|ausser",
    sound=r"(?:der|die|das|den|dem|des|einen?|eine[mrs]?) ",
)
FRENCH = Negation(
    everything=r"tout(?: le reste)?|tous les (?:autres )?(?:sons|bruits)|(?:tout )?l'enregistrement|le reste",
    but=r"sauf|excepté|hormis|à part|hors|mais pas|sans|à l'exception d[ue]s?|à l'exception d'|à l'exclusion d[ue]s?",
    remove=r"(?:enl[eè]ve|supprime|élimine|ôte|atténue)(?:r|z)?|réduire|réduis|"
    r"(?:retire|efface|coupe|ignore)(?:r|z)?(?=(?: (?:le|la|les)| l')\b)",
    gone="en moins",
    no=r"pas (?:d'|de(?! (?:course|danse|cheval|loup|géant))|du|des|le|la|les|l')|aucune?|sans|ni|"
    r"je ne veux pas (?:entendre|d'|de|du|des|le|la|les|l')",
    and_not=r"sans|mais sans|mais pas|et pas|sauf|excepté",
    sound=r"(?:(?:le|la|les|du|de|des|un|une) )+|d'|de l'|l'",
)
SPANISH = Negation(
    everything=r"todo(?: lo demás)?|todos los (?:demás |otros )?(?:sonidos|ruidos)|toda la grabación|el resto",
    but=r"menos|excepto|salvo|sin|pero no|a excepción de|con excepción de|aparte de",
    remove=r"(?:quita|elimina|borra|suprime|silencia|ignora)r?|suprimir|reducir|reduce(?= (?:el|la|los|las)\b)",
    gone=None,
    no="sin|nada de|ningún|ninguna|ninguno|no quiero(?: oír| escuchar)?",
    and_not=r"sin|pero sin|pero no|y no|excepto|salvo",
    sound=r"(?:(?:el|la|los|las|del|un|una|unos|unas) )+",
)
ITALIAN = Negation(
    everything=r"tutto(?: il resto)?|tutti i (?:suoni|rumori)|tutta la registrazione|il resto",
    but=r"tranne|eccetto|salvo|meno|senza|ma non|a parte|fuorch[eé]|ad? eccezione d[ei]l?l?[aeo']?",
    remove=r"(?:togli|elimina|rimuovi|cancella|sopprimi|ignora|riduci|togliere|eliminare|rimuovere|cancellare|sopprimere|"
    r"ridurre)",
    gone=None,
    no="senza|niente|nessun|nessuna|nessuno|nessun'|non voglio(?: sentire)?",
    and_not=r"senza|ma senza|ma non|e non|tranne|eccetto",
    sound=r"(?:(?:il|lo|la|i|gli|le|un|uno|una|del|dello|della|dei|degli|delle) )+|l'|un'|dell'",
)
PORTUGUESE = Negation(
    everything=r"tudo(?: o resto)?|todos os (?:outros )?(?:sons|ruídos)|toda a gravação|o resto",
    but=r"menos|exceto|salvo|sem|mas não|à exceção d[eoa]s?|com exceção d[eoa]s?|fora",
    remove=r"(?:elimin[ae]|apag(?:a|ue)|retira|suprim[ae]|silenci[ae]|ignora)r?|remova|remover|suprimir|reduz|reduzir|"
    r"tir[ae]r?(?= (?:o|a|os|as)\b)",
    gone=None,
    no=r"sem|nada de|nenhuma?|não(?: quero(?: ouvir)?)?",
    and_not=r"sem|mas sem|mas não|e não|exceto|salvo",
    sound=r"(?:(?:o|a|os|as|um|uma|do|da|dos|das) )+",
)
LANGUAGES = (GERMAN, FRENCH, SPANISH, ITALIAN, PORTUGUESE)
FORMS = [(re.compile(rf"^{form}$", re.IGNORECASE), outcome) for one in LANGUAGES for form, outcome in one.forms()]
BOTH = [re.compile(rf"^{one.both()}$", re.IGNORECASE) for one in LANGUAGES]


__all__ = ["BOTH", "FORMS", "LANGUAGES", "Negation"]
